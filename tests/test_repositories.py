"""A package repository is added with the key that was named by its fingerprint, and with no other."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest
import yaml

from .commands import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

key_fingerprints: Callable[[str], list[str]] = runpy.run_path(str(ROOT / "ansible/plugins/filter/keys.py"))[
    "key_fingerprints"
]
# gpg made the keys and said these fingerprints
FIRST, SECOND = "5C4C7DA70CCF86C627B62C13768117F75586F004", "7B250B0F5EE0797C4180266C6E6845448324AE5F"
DATA_OF_FIRST = """\
mDMEawwFKhYJKwYBBAHaRw8BAQdArJOFvSvo4nTgyJny31qBdNEQbpuqRmw1DhhN
QbVjuxi0FW9uZSA8b25lQGV4YW1wbGUub3JnPoiQBBMWCAA4FiEEXEx9pwzPhsYn
tiwTdoEX91WG8AQFAmsMBSoCGwMFCwkIBwIGFQoJCAsCBBYCAwECHgECF4AACgkQ
doEX91WG8AQaGwD/TJJEwDgwfEYAIJipcx6NmG30BaELUehMcmvgYwCXj78A/AgH
3bP4c4qnfe6lKbEPknQrSF6/Hu257814xLGkBEIC"""
DATA_OF_SECOND = """\
mDMEawwFKhYJKwYBBAHaRw8BAQdAP+uHPtdr/w8mfNzxcuZ0MoQCYgWRCuccroAs
VSustrG0FXR3byA8dHdvQGV4YW1wbGUub3JnPoiQBBMWCAA4FiEEeyULD17geXxB
gCZsbmhFRIMkrl8FAmsMBSoCGwMFCwkIBwIGFQoJCAsCBBYCAwECHgECF4AACgkQ
bmhFRIMkrl/KOQEAjGLaolHjR4MIZXG9CBFyTtgX4ZsmJxCAPxPY1EJCpzMA/0ow
y8HMqPRCNpfLrgz9MP2SijBFkDOBx74O3yZCUEAH"""
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
BEGIN, END = (f"-----{word} PGP PUBLIC KEY BLOCK-----" for word in ("BEGIN", "END"))


def armoured(*data: str, headers: str = "", checksum: str = "") -> str:
    """Return the block with these keys; each has a length that base64 fills up to its end."""
    return f"{BEGIN}\n{headers}\n" + "\n".join(data) + f"\n{checksum}{END}\n"


ONE, BOTH = armoured(DATA_OF_FIRST), armoured(DATA_OF_FIRST, DATA_OF_SECOND)


@pytest.mark.parametrize(
    ("text", "fingerprints"),
    [
        (ONE, [FIRST]),
        (armoured(DATA_OF_SECOND), [SECOND]),
        (BOTH, [FIRST, SECOND]),
        (armoured(DATA_OF_FIRST, headers="Comment: 5C4C 7DA7\nVersion: 1\n", checksum="=oPTP\n"), [FIRST]),
        (ONE.replace("\n", "\r\n"), [FIRST]),
        (f"\n{ONE}\n\n", [FIRST]),
    ],
)
def test_the_fingerprints_of_a_file_are_those_of_its_keys(text: str, fingerprints: list[str]) -> None:
    assert key_fingerprints(text) == fingerprints


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>Not found</html>",
        ONE + armoured(DATA_OF_SECOND),  # one reader takes the first block, another one both
        f"{DATA_OF_SECOND}\n{ONE}",
        ONE.replace("PUBLIC", "PRIVATE"),
        ONE.replace("doEX91WG8AQaGwD/", "doEX91WG8AQa"),  # shorter than its packets say
        ONE.replace("mDMEaw", "xDMEaw"),  # a length of another form, which ends elsewhere
        ONE.replace("mDMEaw", "mzMEaw"),  # a packet without a length
        ONE.replace("mDMEaw", "lDMEaw"),  # a secret key
        ONE.replace("mDMEaw", "mDMDaw"),  # a key of version 3
        ONE.replace("rJOF", "rJ!F"),
        armoured(DATA_OF_FIRST.partition("tiwTdoEX")[0][-24:]),
    ],
)
def test_what_is_not_one_block_of_whole_public_keys_has_no_fingerprint(text: str) -> None:
    assert key_fingerprints(text) == []


def test_a_key_with_one_other_bit_has_another_fingerprint() -> None:
    (other,) = key_fingerprints(ONE.replace("rJOFvSvo", "rJOFvSvp"))
    assert re.fullmatch(r"[0-9A-F]{40}", other)
    assert other != FIRST


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a web server with the keys ``one.asc`` and ``both.asc``."""
    (tmp_path / "one.asc").write_text(ONE)
    (tmp_path / "both.asc").write_text(BOTH)
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def add(folder: Path, key: str, *fingerprints: str) -> str:
    """Rehearse the addition of a repository to this machine, which changes nothing on it; return what Ansible says."""
    repository = {
        "name": "holdfast-test", "uri": "http://192.0.2.1/debian", "suite": "trixie",
        "key": key, "fingerprints": list(fingerprints),
    }  # fmt: skip
    role = {"name": "holdfast.stack.common", "tasks_from": "repositories"}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"common_repositories": [repository]},
        "tasks": [{"ansible.builtin.include_role": role}],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"localhost": LOCAL}}}))
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", folder / "hosts.yml", folder / "play.yml", "--check", "--diff"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ("failed=0" in done.stdout) == (done.returncode == 0), done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_repository_is_added_with_the_key_that_was_named(tmp_path: Path, served: str) -> None:
    spaced = re.sub("(....)", r"\1 ", FIRST.lower()).strip()
    for key, fingerprints in (
        (f"{served}/one.asc", (FIRST,)),
        (str(tmp_path / "one.asc"), (spaced,)),
    ):
        said = add(tmp_path, key, *fingerprints)
        assert "failed=0" in said
        assert "+Signed-By: /etc/apt/keyrings/holdfast-test.asc" in said
        assert "+Suites: trixie" in said
        assert "+mDMEawwFKhYJ" in said


def test_a_key_that_was_not_named_is_refused_before_anything_is_written(tmp_path: Path, served: str) -> None:
    for key, fingerprints, found in (
        (f"{served}/one.asc", (SECOND,), FIRST),
        (str(tmp_path / "both.asc"), (FIRST,), f"{FIRST}, {SECOND}"),  # apt would trust the second one, too
        (str(tmp_path / "play.yml"), (FIRST,), "no armoured public key"),
    ):
        said = add(tmp_path, key, *fingerprints)
        assert f"found:   {found} in {key}" in said.replace("\\n", "\n").replace('"', ""), said
        assert "changed=0" in said
        assert "+mDMEawwFKhYJ" not in said

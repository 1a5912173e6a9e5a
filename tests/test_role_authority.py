"""The rotation of the authority on its files: what is next in each state, what is refused, what hosts trust.

One run of Ansible on this machine goes through a whole rotation, with interruptions; the tests look at what it noted.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

Tasks = list[dict[str, Any]]


def role(tasks_from: str, **variables: object) -> Tasks:
    """Return tasks that run a part of the role."""
    include = {"name": "holdfast.stack.tls", "tasks_from": tasks_from}
    return [{"ansible.builtin.include_role": include, "vars": variables}]


def note(name: str, value: str) -> Tasks:
    """Return tasks that note a value as ``name``."""
    more = f"{{'{name}': {value}}}"
    return [{"ansible.builtin.set_fact": {"noted": "{{ noted | default({}) | combine(" + more + ") }}"}}]


def shell(script: str) -> Tasks:
    """Return tasks that run a script in the folder of the authorities; a lookup is faster than a task's process."""
    return note("script", f"lookup('ansible.builtin.pipe', 'set -e; cd ' ~ tls_controller_dir ~ '; {script}')")


def step(name: str, **variables: object) -> Tasks:
    """Return tasks that note in ``name`` which step comes next, or why none does."""
    asked = role("rotation", **variables) + note(name, "tls_rotation")
    return [{"block": asked, "rescue": note(name, "ansible_failed_result.msg")}]


def keep(name: str) -> Tasks:
    """Return tasks that copy the authorities, and what the hosts are told to trust."""
    bundle = {"name": "holdfast.stack.shared", "public": True}
    return [*shell(f"mkdir -p ../{name}; cp *.pem ../{name}/"), {"ansible.builtin.include_role": bundle},
            *note(f"{name}.trusted", "tls_bundle")]  # fmt: skip


NEXT = {"tls_authority_name": "ca.next"}
PLAY: Tasks = [
    *step("nothing-there"),
    *role("authority"),
    *keep("one"),
    *step("one.next"),
    *step("given", tls_source="given"),
    *step("a-part", ansible_limit="data1"),
    *shell("mv ca.key away"),
    *step("no-key"),
    *shell("openssl ecparam -name prime256v1 -genkey | openssl ec -aes256 -passout pass:secret -out ca.key 2>&1"),
    *step("another-key"),
    *shell("mv away ca.key"),
    *step("another-password", holdfast_passwords={"certificate_authority": "other"}),
    # the next authority: made once
    *role("authority", **NEXT),
    *keep("made"),
    *step("made.finish", rotate_finish="yes"),
    *role("authority", **NEXT),
    *keep("made-again"),
    *step("made-again.next"),
    # interrupted between the changes of the files
    *shell("cp ca.key ca.before.key; cp ca.pem ca.before.pem; mv ca.next.key ca.key"),
    *step("signs.next"),
    *keep("signs"),
    *step("signs.finish", rotate_finish="yes"),
    *role("forget"),
    *keep("ended"),
    *step("ended.next"),
    *step("ended.finish", rotate_finish="yes"),
    {
        "ansible.builtin.copy": {
            "content": "{{ noted | to_json }}", "dest": "{{ tls_controller_dir }}/../noted.json", "mode": "0600"
        }
    },
]  # fmt: skip


class Rotation:
    """What the run has left in a folder.

    Attributes:
        folder: a folder with the authorities in each state that was kept.
        noted: which step comes next in a state, or why none does; and what a host is to trust in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.noted: dict[str, str] = json.loads((folder / "noted.json").read_text(encoding="utf-8"))

    def authority(self, state: str, name: str) -> x509.Certificate:
        """Return an authority of the controller in a state."""
        return x509.load_pem_x509_certificate((self.folder / state / name).read_bytes())

    def trusted(self, state: str) -> list[x509.Certificate]:
        """Return what a host is to trust in a state."""
        ssl.create_default_context(cadata=self.noted[f"{state}.trusted"])  # it is stricter
        return x509.load_pem_x509_certificates(self.noted[f"{state}.trusted"].encode())


@pytest.fixture(scope="module")
def rotation(tmp_path_factory: pytest.TempPathFactory) -> Rotation:
    folder = tmp_path_factory.mktemp("rotation")
    variables = {
        "tls_source": "internal", "tls_controller_dir": str(folder / "controller"),
        "holdfast_passwords": {"certificate_authority": "secret"},
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }  # fmt: skip
    play = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": PLAY}
    (folder / "play.yml").write_text(yaml.safe_dump(json.loads(json.dumps([play]))), encoding="utf-8")
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", folder / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return Rotation(folder)


@pytest.mark.parametrize(
    ("name", "next_step"),
    [
        ("one.next", "begin"),
        ("made-again.next", "trust"),
        ("signs.next", "issue"),
        ("signs.finish", "finish"),
        ("ended.next", "begin"),
    ],
)
def test_the_files_say_what_is_next(rotation: Rotation, name: str, next_step: str) -> None:
    assert rotation.noted[name] == next_step


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing-there", "missing"),
        ("given", "tls_source given"),
        ("a-part", "--limit data1"),
        ("no-key", "no ca.key beside it"),
        ("another-key", "not the key of ca.pem"),
        ("another-password", "does not open"),
        ("made.finish", "whose next authority does not sign yet"),
        ("ended.finish", "no rotation that has begun"),
    ],
)
def test_what_cannot_begin_or_end_is_refused(rotation: Rotation, name: str, words: str) -> None:
    said = rotation.noted[name]
    assert words in said
    assert [said.count(f"\n{word}:") + said.startswith(word) for word in ("found", "allowed", "next")] == [1, 1, 1]


def test_the_next_authority_is_made_once_and_has_a_name_of_its_own(rotation: Rotation) -> None:
    made = rotation.authority("made", "ca.next.pem")
    assert rotation.authority("made-again", "ca.next.pem") == made
    assert rotation.authority("made", "ca.pem").subject != made.subject


def test_it_takes_over_and_the_one_before_is_kept_until_the_end(rotation: Rotation) -> None:
    first, second = rotation.authority("one", "ca.pem"), rotation.authority("made", "ca.next.pem")
    assert [rotation.authority("signs", name) for name in ("ca.pem", "ca.before.pem")] == [second, first]
    assert not (rotation.folder / "signs/ca.next.pem").exists()
    assert rotation.authority("ended", "ca.pem") == second
    assert sorted(path.name for path in (rotation.folder / "controller").iterdir()) == ["ca.key", "ca.pem"]


def test_a_host_trusts_both_while_there_are_two(rotation: Rotation) -> None:
    first, second = rotation.authority("one", "ca.pem"), rotation.authority("made", "ca.next.pem")
    trusted = {state: rotation.trusted(state) for state in ("one", "made", "signs", "ended")}
    assert trusted == {"one": [first], "made": [first, second], "signs": [second, first], "ended": [second]}

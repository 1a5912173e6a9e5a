"""What verify finds on a host: a file, port or login that is not as designed, and a host that is down."""

from __future__ import annotations

import grp
import importlib.util
import json
import os
import pwd
import socket
import ssl
import subprocess
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .commands import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_spec = importlib.util.spec_from_file_location("audit", ROOT / "ansible/plugins/modules/audit.py")
assert _spec
assert _spec.loader
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)

USER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
OWNER = f"{USER}:{GROUP}"
ADDRESS = "127.0.0.1"


def found(looked: Any) -> list[str]:
    """Return the names of the findings of an audit."""
    return [check["check"] for check in looked.checks if not check["ok"]]


def wrong(group: str, **options: Any) -> list[str]:
    """Return the names of the findings of one group of checks."""
    looked = audit.Audit({"address": ADDRESS, "tls": {}} | options)
    looked.attempt(getattr(looked, group))
    return found(looked)


def file(path: Path, mode: int, **want: Any) -> list[str]:
    """Return the findings about a file with this mode."""
    path.write_text("secret")
    path.chmod(mode)
    return wrong("files", files=[{"path": str(path), "owner": OWNER, "mode": "0640"} | want])


def test_a_file_as_designed_or_with_fewer_rights_is_fine(tmp_path: Path) -> None:
    assert file(tmp_path / "a", 0o640) == []
    assert file(tmp_path / "a", 0o600) == []


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o4640])
def test_a_file_with_more_rights_is_a_finding(tmp_path: Path, mode: int) -> None:
    assert file(tmp_path / "a", mode) == [f"owner and mode of {tmp_path}/a"]


@pytest.mark.parametrize("owner", ["nobody:nogroup", f"{USER}:nogroup", f"nobody:{GROUP}"])
def test_a_file_of_somebody_else_is_a_finding(tmp_path: Path, owner: str) -> None:
    assert file(tmp_path / "a", 0o640, owner=owner) == [f"owner and mode of {tmp_path}/a"]


def test_a_missing_file_is_a_finding_unless_it_may_be_elsewhere(tmp_path: Path) -> None:
    want = {"path": f"{tmp_path}/none", "owner": OWNER, "mode": "0640"}
    assert wrong("files", files=[want]) == [f"{tmp_path}/none is there"]
    assert wrong("files", files=[want | {"optional": True}]) == []


def test_a_key_that_is_not_encrypted_is_a_finding(tmp_path: Path) -> None:
    assert file(tmp_path / "a", 0o600, contains="ENCRYPTED") == [f"{tmp_path}/a is encrypted"]
    assert file(tmp_path / "a", 0o600, contains="secret") == []


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server((ADDRESS, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def nobody() -> int:
    """A port that nobody listens on."""
    with socket.create_server((ADDRESS, 0)) as server:
        return int(server.getsockname()[1])


def doors(*ports: tuple[int, bool]) -> dict[str, Any]:
    """Return the options that have these ports tried, each with whether it may be open."""
    return {
        "doors": [{"host": "other", "address": ADDRESS, "port": port, "open": may} for port, may in ports],
        "neighbours": {"other": ADDRESS},
        "answering_port": ports[0][0],
    }


def test_doors_as_designed_are_fine(listener: int, nobody: int) -> None:
    assert wrong("ports", **doors((listener, True), (nobody, False))) == []


def test_an_open_door_is_a_finding(listener: int) -> None:
    assert wrong("ports", **doors((listener, False))) == [f"other:{listener} from here"]


def test_a_door_that_does_not_open_for_whom_it_should_is_a_finding(nobody: int) -> None:
    assert wrong("ports", **doors((nobody, True))) == [f"other:{nobody} from here, which may"]


@pytest.mark.parametrize("answer", ["silent", "EHOSTUNREACH"])
def test_a_host_that_is_down_is_a_finding_not_a_closed_door(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(audit, "knock", lambda *_: answer)
    assert wrong("ports", **doors((1, False))) == ["other answers from here"]


def test_another_rule_or_password_of_a_redis_user_is_seen() -> None:
    written = audit.rules(
        "# users\n\nuser app on #aa resetchannels +get ~x (+del ~x)\nuser default off resetpass ~* +@all"
    )
    live = "user app on sanitize-payload #aa ~x resetchannels -@all +get (~x resetchannels -@all +del)\n{}"
    default = "user default off sanitize-payload resetchannels ~* +@all"
    assert audit.rules(live.format(default)) == written
    for change in ("+get", "#aa", " ~x "):
        assert audit.rules(live.format(default).replace(change, f"{change} +set ", 1)) != written
    assert audit.rules(live.format(default.replace("off", "on nopass"))) != written


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """A certificate of an own authority, as the audit's option ``tls``."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=x", "-addext", f"subjectAltName=IP:{ADDRESS}", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"ca": str(cert), "cert": str(cert), "key": str(key)}


def serve(certificate: dict[str, str], ciphers: str = "DEFAULT", **settings: Any) -> socket.socket:
    """Return a TLS server with these settings of its context, which answers one line until it is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate["cert"], certificate["key"])
    context.load_verify_locations(certificate["ca"])
    context.set_ciphers(ciphers)
    for name, value in settings.items():
        setattr(context, name, value)
    server = socket.create_server((ADDRESS, 0))

    def shake() -> None:
        while True:
            try:
                link = server.accept()[0]
            except OSError:
                return
            try:
                with context.wrap_socket(link, server_side=True) as tls:
                    if tls.recv(100):
                        tls.sendall(b"+PONG\r\n")
            except OSError:
                link.close()

    threading.Thread(target=shake, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("oldest", "newest", "ciphers", "findings"),
    [
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, "DEFAULT", []),
        (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, "DEFAULT:@SECLEVEL=0", ["it speaks TLS 1.0 or 1.1"]),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "ALL:eNULL:@SECLEVEL=0", ["it takes a weak cipher"]),
    ],
)
def test_an_old_version_and_a_weak_cipher_are_findings(
    certificate: dict[str, str], oldest: ssl.TLSVersion, newest: ssl.TLSVersion, ciphers: str, findings: list[str]
) -> None:
    """The server asks for a certificate, as ours do: OpenSSL's client gives up on one that does so without its own."""
    asks = ssl.CERT_REQUIRED
    with serve(certificate, ciphers, verify_mode=asks, minimum_version=oldest, maximum_version=newest) as server:
        looked = audit.Audit({"address": ADDRESS, "tls": certificate})
        looked.modern("it", server.getsockname()[1])
    assert found(looked) == findings


@pytest.mark.parametrize(
    ("asked", "findings"),
    [
        (ssl.CERT_REQUIRED, []),
        (ssl.CERT_OPTIONAL, ["it without a certificate"]),
        (ssl.CERT_NONE, ["it without a certificate", "it with a stranger's certificate"]),
    ],
)
def test_a_server_that_takes_no_or_any_certificate_is_a_finding(
    certificate: dict[str, str], asked: ssl.VerifyMode, findings: list[str]
) -> None:
    strong = ssl.TLSVersion.TLSv1_2
    with serve(certificate, verify_mode=asked, minimum_version=strong) as server:
        looked = audit.Audit({"address": ADDRESS, "tls": certificate})
        looked.closed("it", server.getsockname()[1], b"PING\r\n")
    assert found(looked) == findings


def test_a_server_that_takes_a_servers_certificate_from_a_client_is_a_finding(
    certificate: dict[str, str], tmp_path: Path
) -> None:
    """Of one authority are a certificate for a server and, the control, one for both."""
    own = certificate | {"server_cert": f"{tmp_path}/server.pem", "server_key": f"{tmp_path}/server.key"}
    for usage, findings in (("serverAuth", []), ("serverAuth,clientAuth", ["it with a server's certificate"])):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
             "-CA", own["ca"], "-CAkey", own["key"], "-subj", "/CN=y", "-addext", f"extendedKeyUsage={usage}",
             "-addext", "basicConstraints=CA:FALSE", "-keyout", own["server_key"], "-out", own["server_cert"]],
            check=True, capture_output=True,
        )  # fmt: skip
        with serve(certificate, verify_mode=ssl.CERT_REQUIRED, minimum_version=ssl.TLSVersion.TLSv1_2) as server:
            looked = audit.Audit({"address": ADDRESS, "tls": own})
            looked.closed("it", server.getsockname()[1], b"PING\r\n")
        assert found(looked) == findings


REFUSED = ("config get masterauth",)
USERS = "user admin on #aa ~* +@all\nuser app on #bb ~x +get\n"


@pytest.mark.parametrize(
    ("live", "allowed", "findings"),
    [
        (USERS, {"admin"}, []),
        (USERS + "user other on nopass +get\n", {"admin"}, ["users of Redis"]),
        (USERS.replace("#bb", "#cc"), {"admin"}, ["users of Redis with other rules or passwords"]),
        (USERS, {"admin", "app"}, ["users of Redis who may administer"]),
        (USERS, set(), ["Redis tells who may administer"]),
    ],
)
def test_users_of_redis_that_are_not_as_designed_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: str, allowed: set[str], findings: list[str]
) -> None:
    def run(_: str, __: str, verb: str, user: str = "", *___: str) -> str:
        return live if verb == "list" else "OK\n" if user in allowed else "no permissions\n"

    (tmp_path / "users.acl").write_text(USERS)
    looked = audit.Audit({"address": ADDRESS, "tls": {}})
    monkeypatch.setattr(looked, "run", run)
    looked.redis_users("Redis", "holdfast-redis", tmp_path / "users.acl", REFUSED)
    assert found(looked) == findings


def test_a_secret_on_a_command_line_is_a_finding() -> None:
    """The word is in no other process: a secret that only this test knows."""
    secret = uuid.uuid4().hex
    assert wrong("command_lines", secrets={"redis_admin": secret}) == []
    with subprocess.Popen(["sh", "-c", "read -r _", secret], stdin=subprocess.PIPE) as process:
        assert wrong("command_lines", secrets={"redis_admin": secret}) == ["secrets on a command line"]
        process.communicate()


def test_a_host_is_told_no_secret_that_it_does_not_use() -> None:
    """Only the application's hosts get what belongs to no server, and nobody gets what stays on the controller."""
    of = yaml.safe_load((ROOT / "ansible/roles/verify/vars/main.yml").read_text())["verify_secrets_of"]
    rest = of.pop("rest")
    given = {name for names in of.values() for name in names}
    assert given & set(rest) == set()
    assert {"certificate_authority", "rabbitmq_admin"} <= set(rest)
    passwords = yaml.safe_load((ROOT / "ansible/inventories/lab/group_vars/all/main.yml").read_text())
    assert given | set(rest) <= set(passwords["holdfast_passwords"])


def test_a_worker_is_told_its_own_secrets_alone(tmp_path: Path) -> None:
    """The control: a host of every group, and of none that keeps what belongs to the controller."""
    role = ROOT / "ansible/roles/verify"
    (look,) = [
        task["holdfast.stack.audit"]
        for task in yaml.safe_load((role / "tasks/main.yml").read_text())
        if "secrets" in task.get("holdfast.stack.audit", {})
    ]
    every = yaml.safe_load((ROOT / "ansible/inventories/lab/group_vars/all/main.yml").read_text())["holdfast_passwords"]
    of = yaml.safe_load((role / "vars/main.yml").read_text())["verify_secrets_of"]
    groups: dict[str, dict[str, Any]] = {"workers": {"few": {}, "many": {}}, "app": {"few": {}, "many": {}}}
    groups |= {name: {"many": {}} for name in of.keys() - groups.keys() - {"rest"}}
    hosts = {"all": {"vars": {"ansible_connection": "local"}, "children": {n: {"hosts": h} for n, h in groups.items()}}}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {
            "holdfast_passwords": {name: f"secret of {name}" for name in every},
            "rabbitmq_external": {},
            "redis_external": {},
        },
        "vars_files": [str(role / "vars/main.yml")],
        "tasks": [{"ansible.builtin.debug": {"msg": {"told": look["secrets"]}}}],
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", tmp_path / "hosts.yml", tmp_path / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "json"},
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    said = json.loads(done.stdout[done.stdout.index("{") :])["plays"][0]["tasks"][0]["hosts"]
    few, many = (set(said[name]["msg"]["told"]) for name in ("few", "many"))
    assert "redis_worker" in few
    assert few.isdisjoint(name for group, names in of.items() if group != "workers" for name in names)
    assert many == set(every) - set(of["rest"])


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the authorities ``old`` and ``new``, and a certificate of each, ``of-old`` and ``of-new``."""
    folder = tmp_path_factory.mktemp("signed")
    for name in ("old", "new"):
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
        for command in (
            ("req", "-x509", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
            ("req", "-x509", *key, "-subj", "/CN=host", "-CA", f"{name}.pem", "-CAkey", f"{name}.key",
             "-keyout", f"of-{name}.key", "-out", f"of-{name}.pem"),
        ):  # fmt: skip
            subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder


def certificates(folder: Path, trusted: tuple[str, ...], designed: tuple[str, ...], shown: str) -> list[str]:
    """Return the findings about a host that trusts some authorities and shows a certificate."""
    bundle = folder / "bundle.pem"
    bundle.write_text("".join((folder / f"{name}.pem").read_text() for name in trusted))
    authorities = "\n".join((folder / f"{name}.pem").read_text().strip() for name in designed)
    files = [str(folder / f"{shown}.pem")]
    return wrong("certificates", tls={"ca": str(bundle)}, authorities=authorities, certificates=files)


def test_a_host_trusts_the_authorities_of_the_controller_alone(signed: Path) -> None:
    assert certificates(signed, ("new",), ("new",), "of-new") == []
    assert certificates(signed, ("new", "old"), ("old", "new"), "of-old") == []
    trust = ["authorities that this host trusts"]
    assert certificates(signed, ("new", "old"), ("new",), "of-new") == trust, "it still trusts the old one"
    assert certificates(signed, ("new",), ("new", "old"), "of-new") == trust, "it does not trust the old one yet"


def test_a_certificate_of_an_authority_that_is_not_trusted_is_found(signed: Path) -> None:
    finding = [f"{signed}/of-old.pem is of an authority that all hosts trust"]
    assert certificates(signed, ("new",), ("new",), "of-old") == finding

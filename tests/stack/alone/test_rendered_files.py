"""What `make render` writes for an inventory of one's own starts its server: each file alone, with TLS, in a throwaway
container without a network."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.environment import read_file

from ..stack import ROOT, CommandFailedError, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

PASSWORD = "a-password-of-thirty-characters"  # noqa: S105 - of servers that live for seconds without a network
ADDRESS = "127.0.0.2"  # beside 127.0.0.1, which the servers listen on as well
TLS = "/tls"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for one host, named rabbit1, that carries everything; TLS as by default, with a certificate beside them."""
    folder = tmp_path_factory.mktemp("copying")
    inventory = folder / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    groups = ("rabbitmq", "redis", "sentinel", "app", "workers", "relay", "flower", "prometheus", "alertmanager")
    hosts = {"rabbit1": {"holdfast_address": ADDRESS}}
    (inventory / "hosts.yml").write_text(
        yaml.safe_dump({"all": {"hosts": hosts, "children": {name: {"hosts": {"rabbit1": None}} for name in groups}}})
    )
    example = yaml.safe_load((ROOT / "ansible/inventories/example/group_vars/all/main.yml").read_text())
    values = example | {
        "holdfast_passwords": dict.fromkeys(example["holdfast_passwords"], PASSWORD),
        "app_bin_dir": str(folder / "bin"),
        "app_log_dir": str(folder),
        "workers_run_dir": str(folder),
        "workers_programs_dir": str(folder / "out/workers/programs"),
        "redis_data_dir": "/data",
        "sentinel_data_dir": "/data",
        "sentinel_quorum": 1,
        "alertmanager_heartbeat_url": "http://127.0.0.1:8025/heartbeat",
    }
    values["tls_dir"] = TLS
    (folder / "bin").mkdir()
    (folder / "bin/celery").symlink_to("/bin/true")
    (inventory / "group_vars/all.yml").write_text(yaml.safe_dump(values))
    subprocess.run(
        [ROOT / "scripts/render"],
        env=os.environ | {"INVENTORY": str(inventory), "OUT": str(folder / "out")},
        check=True,
        timeout=500,
    )
    for path in (folder / "out/secret").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the servers run as users of their own
    certificate(folder / "tls", "127.0.0.1")
    return folder


def certificate(folder: Path, *addresses: str) -> None:
    """Write an authority for this hour, and a certificate of it for each profile, as the role `tls` does.

    Args:
        folder: is made.
        addresses: of the hosts that show the certificate.
    """
    folder.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.IPAddress(ip_address(address)) for address in addresses]
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    usages = {
        "ca": None,
        "server": ExtendedKeyUsageOID.SERVER_AUTH,
        "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    for profile, usage in usages.items():
        key = ec.generate_private_key(ec.SECP256R1()) if usage else authority
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rabbit1")]) if usage else issuer
        builder = (
            x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        signed = builder.sign(authority, hashes.SHA256())
        encoding = serialization.Encoding.PEM
        (folder / f"{profile}.pem").write_bytes(signed.public_bytes(encoding))
        (folder / f"{profile}.key").write_bytes(
            key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
    for path in folder.iterdir():
        path.chmod(0o644)  # the servers run as users of their own


def run(*command: str, check: bool = True) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if check and done.returncode:
        raise CommandFailedError(done.stdout + done.stderr)
    return done.stdout + done.stderr


class Server:
    """A throwaway container without a network."""

    def __init__(self, image: str, mounts: dict[Path, str], *command: str) -> None:
        volumes = [item for source, target in mounts.items() for item in ("--volume", f"{source}:{target}:ro")]
        self.name = run(
            "docker", "run", "--detach", "--network", "none", "--hostname", "rabbit1",
            "--add-host", "rabbit1:127.0.0.1", *volumes, image, *command,
        ).strip()  # fmt: skip

    def call(self, *command: str, check: bool = True) -> str:
        """Run a command in the container."""
        return run("docker", "exec", self.name, *command, check=check)

    def stop(self) -> None:
        """Remove the container."""
        run("docker", "rm", "--force", "--volumes", self.name)


@pytest.fixture
def rabbitmq(rendered: Path) -> Iterator[Server]:
    """A broker with the rendered files."""
    out = rendered / "out"
    server = Server(
        "rabbitmq:4.3.6-management",
        {
            ROOT / "compose/start/rabbitmq": "/usr/local/bin/start",
            out / "secret/rabbitmq/erlang.cookie": "/run/holdfast/erlang.cookie",
            out / "rabbitmq/rabbitmq.conf": "/etc/rabbitmq/rabbitmq.conf",
            out / "rabbitmq/enabled_plugins": "/etc/rabbitmq/enabled_plugins",
            out / "rabbitmq/definitions/10-topology.json": "/etc/rabbitmq/definitions/10-topology.json",
            out / "secret/rabbitmq/definitions/20-users.json": "/run/holdfast/20-users.json",
            rendered / "tls": TLS,
        },
        "/usr/local/bin/start",
    )
    yield server
    server.stop()


def test_rabbitmq_starts_with_all_queues_users_and_no_plaintext_port(rabbitmq: Server) -> None:
    def queues() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(
            rabbitmq.call(
                "rabbitmqctl", "-q", "list_queues", "-p", "holdfast", "name", "type", "policy", "--formatter", "json"
            )
        )
        return found if len(found) == 33 else []

    last = ("rabbitmq-diagnostics", "-q", "check_port_listener", "5671")  # what a start opens when all else is there
    wait_until(lambda: rabbitmq.call(*last) or True, "RabbitMQ has started", 180)
    found = wait_until(queues, "all queues are declared", 60)
    assert {queue["type"] for queue in found} == {"quorum"}
    assert all(queue["policy"] for queue in found)
    for user in ("app", "flower", "monitor", "admin"):
        rabbitmq.call("rabbitmqctl", "-q", "authenticate_user", user, PASSWORD)
    assert "guest" not in rabbitmq.call("rabbitmqctl", "-q", "list_users")
    listeners = json.loads(rabbitmq.call("rabbitmq-diagnostics", "-q", "listeners", "--formatter", "json"))
    assert {item["port"] for item in listeners["listeners"]} == {5671, 15671, 15691, 25672}
    for port, words in ((5671, "AMQP\\x00\\x00\\x09\\x01"), (15691, "GET /metrics HTTP/1.0\\r\\n\\r\\n")):
        answers = {name: rabbitmq.call("rabbitmqctl", "-q", "eval", shake(port, words, name)) for name in PROFILES}
        assert "answered" in answers["client"]
        assert {name for name, answer in answers.items() if "refused" in answer} == {"server", "none"}, answers


PROFILES = ("client", "server", "none")


def shake(port: int, words: str, profile: str) -> str:
    """Return an expression of Erlang: how a port answers a client with the certificate of a profile, or with none."""
    own = f', {{certfile, "{TLS}/{profile}.pem"}}, {{keyfile, "{TLS}/{profile}.key"}}' if profile != "none" else ""
    options = f'[{{cacertfile, "{TLS}/ca.pem"}}, {{verify, verify_peer}}, {{active, false}}{own}]'
    return f"""
        Say = fun(Link) -> ssl:send(Link, "{words}"), ssl:recv(Link, 1, 60000) end,
        case ssl:connect("127.0.0.1", {port}, {options}, 60000) of
            {{ok, Link}} ->
                case Say(Link) of {{ok, _}} -> answered; {{error, Reason}} -> {{refused, Reason}} end;
            {{error, Reason}} -> {{refused, Reason}}
        end."""


@pytest.fixture
def redis(store: str, rendered: Path) -> Iterator[Server]:
    """A Redis node, or one of Valkey, with the rendered files."""
    server = Server(
        store,
        {
            rendered / "out/secret/redis/rabbit1.conf": "/etc/redis/redis.conf",
            rendered / "out/secret/redis/users.acl": "/etc/redis/users.acl",
            rendered / "tls": TLS,
        },
        "redis-server",
        "/etc/redis/redis.conf",
    )
    yield server
    server.stop()


TLS_CLIENT = ("--tls", "--cacert", f"{TLS}/ca.pem", "--cert", f"{TLS}/client.pem", "--key", f"{TLS}/client.key")


def test_redis_starts_and_knows_its_users(redis: Server) -> None:
    def ask(user: str, *command: str) -> str:
        return redis.call("redis-cli", *TLS_CLIENT, "--no-auth-warning", "--user", user, "--pass", PASSWORD, *command)

    wait_until(lambda: "PONG" in ask("app", "ping"), "Redis answers", 60)
    assert "appendfsync" in ask("admin", "config", "get", "appendfsync")
    key = "celery-task-meta-1"
    assert "NOREPLICAS" in ask("worker", "set", key, "1"), "a primary without a replica accepts nothing"
    assert "NOPERM" in ask("app", "set", key, "1")
    assert "NOPERM" in ask("monitor", "config", "get", "maxmemory")
    assert "NOPERM" in ask("monitor", "get", key)
    assert "NOAUTH" in redis.call("redis-cli", *TLS_CLIENT, "ping", check=False)
    other = (word.replace("client", "server") for word in TLS_CLIENT)
    assert "NOAUTH" not in redis.call("redis-cli", *other, "ping", check=False), "a server's certificate is no client's"


def test_sentinel_starts_from_its_seed(store: str, rendered: Path) -> None:
    server = Server(
        store,
        {
            ROOT / "compose/config/sentinel/sentinel-state": "/usr/local/bin/sentinel-state",
            rendered / "out/secret/sentinel/rabbit1.conf": "/etc/redis/sentinel.conf",
            rendered / "out/secret/sentinel/users.acl": "/etc/redis/sentinel.acl",
            rendered / "tls": TLS,
        },
        "sh", "-c", "sentinel-state && exec redis-server /data/sentinel.conf --sentinel",
    )  # fmt: skip
    try:
        wait_until(
            lambda: ADDRESS
            in server.call(
                "redis-cli", *TLS_CLIENT, "-p", "26379", "--no-auth-warning", "--user", "app", "--pass", PASSWORD,
                "sentinel", "get-master-addr-by-name", "results",
            ),
            "Sentinel names the primary",
            60,
        )  # fmt: skip
    finally:
        server.stop()


def test_supervisor_reads_its_file_and_the_programs(rendered: Path) -> None:
    """Supervisor starts with them; the program is replaced by one that ends at once, so it is seen to be retried."""
    out = rendered / "out"
    ask = (str(ROOT / ".venv/bin/supervisorctl"), "-c", str(out / "workers/supervisord.conf"), "status")
    with subprocess.Popen(
        [ROOT / ".venv/bin/supervisord", "-c", out / "workers/supervisord.conf"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            # what it says instead while nobody listens names no program
            wait_until(lambda: "\ndefault " in f"\n{run(*ask, check=False)}", "supervisor names the program", 60)
            wait_until((rendered / "default.log").exists, "the program has a log", 60)
        finally:
            process.terminate()


def test_prometheus_accepts_its_file(rendered: Path) -> None:
    run(
        "docker", "run", "--rm", "--network", "none", "--entrypoint", "/bin/promtool",
        "--volume", f"{rendered / 'out/prometheus/prometheus.yml'}:/prometheus.yml:ro",
        "prom/prometheus:v3.13.2", "check", "config", "--syntax-only", "/prometheus.yml",  # hosts have what it names
    )  # fmt: skip


@pytest.mark.parametrize("server", ["prometheus", "alertmanager"])
def test_the_page_of_the_monitoring_has_a_login(rendered: Path, server: str) -> None:
    """Both read the same format, so promtool checks both; a certificate of the test is where the file says."""
    file = rendered / f"out/secret/{server}/web.yml"
    assert set(yaml.safe_load(file.read_text())) == {"tls_server_config", "basic_auth_users"}
    run(
        "docker", "run", "--rm", "--network", "none", "--entrypoint", "/bin/promtool",
        "--volume", f"{file}:/web.yml:ro", "--volume", f"{rendered / 'tls'}:{TLS}:ro",
        "prom/prometheus:v3.13.2", "check", "web-config", "/web.yml",
    )  # fmt: skip


def test_alertmanager_accepts_its_file(rendered: Path) -> None:
    run(
        "docker", "run", "--rm", "--network", "none", "--entrypoint", "amtool",
        "--volume", f"{rendered / 'out/secret/alertmanager/alertmanager.yml'}:/alertmanager.yml:ro",
        "prom/alertmanager:v0.33.1", "check-config", "/alertmanager.yml",
    )  # fmt: skip


def test_the_environment_loads_the_settings(rendered: Path) -> None:
    variables = {
        name: value.replace(f"{TLS}/", f"{rendered}/tls/")  # this process reads the certificate, not a container
        for name, value in read_file(rendered / "out/secret/app.env").items()
    }
    printed = run(
        "env", "-i", *(f"{name}={value}" for name, value in variables.items()),
        str(ROOT / ".venv/bin/python"), "-c",
        "from holdfast import settings; print(settings.broker_url, [q.name for q in settings.task_queues])",
    )  # fmt: skip
    assert f"amqps://app:{PASSWORD}@{ADDRESS}:5671/holdfast" in printed
    assert "['default', 'critical']" in printed

"""Everything that opens a connection does so over TLS: on servers of the test's own that have no plaintext port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from celery_doctor.management import Management

from ..rig import APPS
from ..servers import container, free_ports
from ..stack import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack

REDIS = """
options="--tls-ca-cert-file /tls/ca.pem --tls-cert-file /tls/cert.pem --tls-key-file /tls/key.pem"
options="$options --tls-replication yes --tls-auth-clients yes --port 0 --protected-mode no"
data="--appendonly yes --appendfsync always --replica-announce-ip 127.0.0.1"
redis-server --tls-port $1 --dir $(mktemp -d) $data $options &
redis-server --tls-port $2 --dir $(mktemp -d) $data $options --replicaof 127.0.0.1 $1 &
for port in $3 $4; do
  printf 'sentinel monitor results 127.0.0.1 %s 2\\nsentinel announce-ip 127.0.0.1\\ndir /tmp\\n' $1 >/tmp/$port.conf
  redis-server /tmp/$port.conf --sentinel --tls-port $port $options &
done
wait
"""
RABBITMQ = """
listeners.tcp = none
listeners.ssl.default = 5671
management.ssl.port = 15671
definitions.import_backend = local_filesystem
definitions.local.path = /tls/definitions.json
"""
TLS_FILES = """{0}.cacertfile = /tls/ca.pem
{0}.certfile = /tls/cert.pem
{0}.keyfile = /tls/key.pem
"""
FILES = {"ca_certs": "ca", "certfile": "cert", "keyfile": "key"}
HOLDFAST = "from holdfast.cli import main; main()"
ROUND = """
from holdfast.publisher import publish_many
assert echo.delay(1).get(timeout=90) == 1
sent = publish_many(app, [echo.s(number) for number in range(50)])
assert not [one.error for one in sent if one.error]
print(len(sent))
"""


@dataclass
class Servers:
    """RabbitMQ, two Redis nodes and two Sentinels with TLS ports on the loopback, and what a client of them needs."""

    tls: Path
    ports: list[int]

    def environment(self, folder: Path, **changes: str) -> dict[str, str]:
        broker, _, _, _, *sentinels = self.ports
        return os.environ | {
            "HOLDFAST_BROKER_URL": f"amqps://app:secret@127.0.0.1:{broker}/holdfast",
            "HOLDFAST_RESULT_URL": ";".join(f"sentinel://127.0.0.1:{port}/0" for port in sentinels),
            "HOLDFAST_SENTINEL_MASTER": "results",
            "HOLDFAST_TLS_CA": str(self.tls / "ca.pem"),
            "HOLDFAST_TLS_CERT": str(self.tls / "cert.pem"),
            "HOLDFAST_TLS_KEY": str(self.tls / "key.pem"),
            "HOLDFAST_PULSE_DIR": str(folder / "pulse"),
            "PYTHONPATH": str(APPS),
            "SCRATCH_LEDGER": str(folder / "ledger"),
            "SCRATCH_TICK": "3",
            "REMAP_SIGTERM": "SIGQUIT",
            **changes,
        }

    def run(self, folder: Path, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this interpreter with arguments to its end."""
        return subprocess.run(
            [sys.executable, *command],
            env=self.environment(folder, **changes),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    @contextmanager
    def process(self, folder: Path, *arguments: str, **changes: str) -> Iterator[Path]:
        """Run ``celery -A scratch`` until the end of the block; yields its log."""
        log = folder / f"log-{uuid.uuid4().hex[:6]}"
        with log.open("w") as output:
            command = [sys.executable, "-m", "celery", "-A", "scratch", *arguments]
            child = subprocess.Popen(
                command, env=self.environment(folder, **changes), stdout=output, stderr=output, cwd=folder
            )
        try:
            yield log
        finally:
            child.terminate()
            child.wait(60)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path, address: str = "127.0.0.1") -> None:
    """Write an authority, and a certificate of it for one address."""
    folder.mkdir(exist_ok=True)
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(folder, *new, "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName=IP:{address}")
    end = ("-addext", "basicConstraints=critical,CA:FALSE")
    openssl(folder, *new, "-subj", "/CN=server", *signed, *end, "-keyout", "key.pem", "-out", "cert.pem")
    for path in folder.iterdir():
        path.chmod(0o644)  # the servers run as other users


def definitions() -> str:
    """Return the rendered topology for a single node."""
    content = json.loads((ROOT / "compose/config/rabbitmq/definitions/10-topology.json").read_text(encoding="utf-8"))
    for policy in content["policies"]:
        policy["definition"].pop("target-group-size", None)
    vhost = {"user": "app", "vhost": "holdfast", "configure": ".*", "write": ".*", "read": ".*"}
    user = {"name": "app", "password": "secret", "tags": ["administrator"]}
    return json.dumps(content | {"users": [user], "permissions": [vhost]})


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers without a plaintext port that ask every client for a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    make_certificates(folder)
    (folder / "definitions.json").write_text(definitions(), encoding="utf-8")
    config = RABBITMQ + TLS_FILES.format("ssl_options") + TLS_FILES.format("management.ssl")
    config += "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
    (folder / "rabbitmq.conf").write_text(config, encoding="utf-8")
    ports = free_ports(6)
    publish = [option for port in ports[2:] for option in ("--publish", f"127.0.0.1:{port}:{port}")]
    mount = ("--volume", f"{folder}:/tls:ro")
    conf = f"{folder / 'rabbitmq.conf'}:/etc/rabbitmq/rabbitmq.conf:ro"
    pairs = (f"127.0.0.1:{ports[0]}:5671", f"127.0.0.2:{ports[0]}:5671", f"127.0.0.1:{ports[1]}:15671")
    web = [option for pair in pairs for option in ("--publish", pair)]
    shell = ("--entrypoint", "sh", "redis:8.2.9", "-c", REDIS, "sh", *map(str, ports[2:]))
    with (
        container(*mount, *web, "--volume", conf, "rabbitmq:4.3.6-management"),
        container(*mount, *publish, *shell),
    ):
        files = {name: str(folder / f"{end}.pem") for name, end in FILES.items()}
        url = f"https://app:secret@127.0.0.1:{ports[1]}"
        # a new one each time: it remembers a server that did not answer
        wait_until(lambda: Management(url, files).get("queues/holdfast"), "RabbitMQ with its queues", 180)
        yield Servers(folder, ports)


def test_worker_publishers_results_and_beat_use_tls(servers: Servers, tmp_path: Path) -> None:
    worker = ("worker", "-c", "1", "-Q", "default", "-n", "tls@scratch", "--loglevel", "INFO")
    with servers.process(tmp_path, *worker) as log, servers.process(tmp_path, "beat", "--loglevel", "INFO") as beat:
        wait_until(lambda: "ready." in log.read_text(), "the worker is ready", 120)
        done = servers.run(tmp_path, "-c", f"from scratch import *\n{ROUND}")
        assert (done.returncode, done.stdout.strip()) == (0, "50"), done.stderr
        ledger = tmp_path / "ledger"
        wait_until(lambda: ledger.read_text().count("end ") >= 51, "every task has run", 90)
        wait_until(lambda: "tick " in ledger.read_text(), "a tick of beat has run", 120)
        assert "Traceback" not in log.read_text() + beat.read_text()


def test_operators_tools_use_tls(servers: Servers, tmp_path: Path) -> None:
    letters = servers.run(tmp_path, "-c", HOLDFAST, "dead", "-A", "scratch", "list")
    assert letters.returncode == 0, letters.stderr
    management = f"https://app:secret@127.0.0.1:{servers.ports[1]}"
    options = ("--live", "--json", "--fail-on", "fatal", "--management", management)
    report = servers.run(tmp_path, "-c", HOLDFAST, "doctor", "-A", "scratch", *options)
    assert report.returncode in {0, 1}, report.stderr
    found = {finding["rule"][:5] for finding in json.loads(report.stdout)["findings"]}
    assert found, "a single node must be found"


@pytest.mark.parametrize("stranger", ["authority", "address"])
def test_a_server_that_cannot_prove_itself_is_refused(servers: Servers, tmp_path: Path, stranger: str) -> None:
    changes = {}
    if stranger == "authority":
        make_certificates(tmp_path / "other")
        changes["HOLDFAST_TLS_CA"] = str(tmp_path / "other/ca.pem")
    else:  # the certificate names 127.0.0.1 only
        changes["HOLDFAST_BROKER_URL"] = f"amqps://app:secret@127.0.0.2:{servers.ports[0]}/holdfast"
    done = servers.run(
        tmp_path, "-c", "from scratch import *\napp.conf.holdfast_publish_deadline = 8\necho.delay(1)", **changes
    )
    assert done.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr

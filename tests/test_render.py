"""The committed configuration is what the templates say, and says what the layer relies on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.transport import native_delayed_delivery as kombu_delay

from holdfast import routing
from holdfast.environment import read_file

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "compose/config"


@pytest.fixture(scope="module")
def topology() -> dict[str, list[dict[str, Any]]]:
    """The committed definitions."""
    content: dict[str, list[dict[str, Any]]] = json.loads(
        (CONFIG / "rabbitmq/definitions/10-topology.json").read_text()
    )
    return content


def files(folder: Path) -> dict[str, str]:
    """Return every file of a folder by name."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_no_secret_is_committed() -> None:
    for name, content in files(CONFIG).items():
        for value in re.findall(r"(?i)(?:password|pass|masterauth|cookie)\S*[=: ]+[\"']?([^\s\"',]+)", content):
            if not value.startswith("#"):
                assert "${" in value or not re.fullmatch(r"[0-9A-Za-z+/=]{20,}", value), f"{name}: {value}"


class Recorder:
    """Stands where kombu expects a channel and notes what is declared."""

    def __init__(self) -> None:
        self.exchanges: dict[str, str] = {}
        self.queues: dict[str, dict[str, Any]] = {}
        self.bindings: set[tuple[str, str, str, str]] = set()

    def exchange_declare(self, exchange: str, type: str, **_: Any) -> None:  # noqa: A002 - kombu's name
        self.exchanges[exchange] = type

    def queue_declare(self, queue: str, arguments: dict[str, Any], **_: Any) -> tuple[str, int, int]:
        self.queues[queue] = arguments
        return queue, 0, 0

    def queue_bind(self, queue: str, exchange: str, routing_key: str, **_: Any) -> None:
        self.bindings.add((exchange, "queue", queue, routing_key))

    def exchange_bind(self, destination: str, source: str, routing_key: str, **_: Any) -> None:
        self.bindings.add((source, "exchange", destination, routing_key))

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **_: Any) -> dict[str, Any]:
        return arguments or {}


def test_delays_are_declared_exactly_as_the_installed_kombu_does(
    topology: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference would be a 406 for clients that still declare, or a countdown that never ends."""
    connection, channel = Connection("memory://"), connection_channel(monkeypatch)
    kombu_delay.declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
    for queue in routing.queues(("default", "critical")):
        kombu_delay.bind_queue_to_native_delayed_delivery_exchange(connection, queue)

    exchanges = {item["name"]: item["type"] for item in topology["exchanges"]}
    assert channel.exchanges.items() <= exchanges.items()
    queues = {item["name"]: item["arguments"] for item in topology["queues"]}
    assert channel.queues == {name: value for name, value in queues.items() if name.startswith("celery_delayed")}
    bindings = {
        (item["source"], item["destination_type"], item["destination"], item["routing_key"])
        for item in topology["bindings"]
    }
    own = {(name, "queue", name, "") for name in ("dead", "unrouted")}
    own.add((kombu_delay.CELERY_DELAYED_DELIVERY_EXCHANGE, "queue", routing.EXPIRED, f"#.{routing.EXPIRED}"))
    by_name = {("tasks", "queue", name, name) for name in ("default", "critical")}
    assert bindings == channel.bindings | own | by_name


def connection_channel(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Make every channel of kombu's in-memory connection the same recorder."""
    recorder = Recorder()
    monkeypatch.setattr(Connection, "channel", lambda _self: recorder)
    return recorder


def test_every_queue_is_replicated_and_has_exactly_one_policy(topology: dict[str, list[dict[str, Any]]]) -> None:
    for queue in topology["queues"]:
        assert queue["durable"]
        assert queue["arguments"]["x-queue-type"] == "quorum"
        matching = [
            policy
            for policy in topology["policies"]
            if policy["apply-to"] == "quorum_queues" and re.search(policy["pattern"], queue["name"])
        ]
        assert len(matching) == 1, queue["name"]
        assert matching[0]["definition"]["overflow"] == "reject-publish"


def test_a_task_outlives_its_time_limit_before_the_broker_takes_it_away(
    topology: dict[str, list[dict[str, Any]]],
) -> None:
    environment = read_file(CONFIG / "secret/app.env")
    tasks = next(policy for policy in topology["policies"] if policy["name"] == "tasks")
    assert tasks["definition"]["consumer-timeout"] > 2 * 1000 * int(environment["HOLDFAST_TIME_LIMIT"])


def test_the_exporter_finds_the_password_of_each_server_by_its_address_with_and_without_the_user() -> None:
    """1.54, which Ubuntu 24.04 has, looks for it without."""
    passwords = json.loads((CONFIG / "secret/redis-exporter.json").read_text())
    named = {address for address in passwords if "//monitor@" in address}
    assert len(named) == 6
    assert passwords.keys() - named == {address.replace("monitor@", "") for address in named}


def test_the_committed_files_are_what_the_templates_say_and_drift_is_named(tmp_path: Path) -> None:
    """One line is changed in a copy: the check must name that line, and no other."""
    copy = tmp_path / "config"
    shutil.copytree(CONFIG, copy)
    changed = copy / "rabbitmq/rabbitmq.conf"
    changed.write_text(changed.read_text().replace("poll_interval = 1000", "poll_interval = 5000"))
    result = subprocess.run(
        [ROOT / "scripts/render", "--check"],
        env=os.environ | {"OUT": str(copy)},
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 1, result.stderr
    assert "next:    change the template" in result.stderr
    differences = [line for line in result.stdout.splitlines() if re.match(r"[-+](?!--|\+\+)|Only in", line)]
    assert differences == [
        "-raft.adaptive_failure_detector.poll_interval = 5000",
        "+raft.adaptive_failure_detector.poll_interval = 1000",
    ], "run 'make render' and commit the result"

"""Every login of RabbitMQ can do what ``tests/access.yml`` allows it, and nothing else that is named there."""

from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from amqp import Connection
from amqp.basic_message import Message
from amqp.exceptions import AccessRefused

from ..servers import container, free_ports, image
from ..stack import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack

ACCESS: dict[str, Any] = yaml.safe_load((ROOT / "tests/access.yml").read_text(encoding="utf-8"))["rabbitmq"]
CONF = """
definitions.import_backend = local_filesystem
definitions.local.path = /definitions
loopback_users = none
"""


@dataclass(frozen=True)
class Broker:
    """A single node with the rendered definitions."""

    port: int
    management: int
    folder: Path

    def password(self, user: str) -> str:
        return (self.folder / f"passwords/RABBITMQ_{user.upper()}_PASSWORD").read_text(encoding="utf-8").strip()

    def connect(self, user: str) -> Connection:
        host = f"127.0.0.1:{self.port}"
        connection = Connection(
            host, userid=user, password=self.password(user), virtual_host="holdfast", confirm_publish=True
        )
        connection.connect()
        return connection

    def reads(self, user: str, path: str) -> bool:
        """Say whether a user may read a page of the management API."""
        login = base64.b64encode(f"{user}:{self.password(user)}".encode()).decode()
        request = Request(f"http://127.0.0.1:{self.management}/api/{path}", headers={"Authorization": f"Basic {login}"})
        try:
            with urlopen(request, timeout=15) as answer:  # noqa: S310 - always http
                return bool(answer.status == 200)
        except HTTPError as error:
            if error.code != 401:
                raise
            return False


def act(channel: Any, verb: str, name: str) -> None:
    """Do what a line of the table says."""
    if verb == "publish":
        exchange, key = ("", "default") if name == "amq.default" else (name, "default")
        channel.basic_publish(Message("{}"), exchange=exchange, routing_key=key)
    elif verb == "get":
        channel.basic_get(name)
    elif verb == "purge":
        channel.queue_purge(name)
    elif verb == "declare":
        channel.queue_declare(name, exclusive=True, auto_delete=True)
    elif verb == "bind":
        channel.queue_bind(name, "tasks", "elsewhere")
    elif verb == "delete":
        channel.queue_delete(name)
    else:
        raise AssertionError(verb)


def may(broker: Broker, user: str, verb: str, name: str) -> bool:
    """Try it."""
    if verb == "read":
        return broker.reads(user, name)
    with broker.connect(user) as connection:
        try:
            act(connection.channel(), verb, name)
        except AccessRefused:
            return False
        return True


@pytest.fixture(scope="module")
def broker(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)
    shutil.copytree(filled / "rabbitmq/definitions", folder / "definitions")
    shutil.copy(ROOT / "compose/config/rabbitmq/definitions/10-topology.json", folder / "definitions")
    (folder / "rabbitmq.conf").write_text(CONF, encoding="utf-8")
    port, management = free_ports(2)
    broker = Broker(port, management, filled)
    ports = ("--publish", f"127.0.0.1:{port}:5672", "--publish", f"127.0.0.1:{management}:15672")
    files = ("--volume", f"{folder}/rabbitmq.conf:/etc/rabbitmq/rabbitmq.conf:ro",
             "--volume", f"{folder}/definitions:/definitions:ro")  # fmt: skip
    with container(*ports, *files, image("rabbitmq")):
        wait_until(lambda: broker.reads("admin", "queues/holdfast/default"), "the definitions are there", 180)
        # its port for AMQP opens last; what is declared is what Celery and the test find there
        with wait_until(lambda: broker.connect("admin"), "the broker takes connections", 60) as connection:
            channel = connection.channel()
            channel.exchange_declare("celery.pidbox", "fanout", auto_delete=False)
            channel.queue_declare("victim", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        yield broker


def test_each_user_has_its_operations_and_no_other(broker: Broker) -> None:
    wrong = [
        f"{user}: {row['what']}"
        for row in ACCESS["operations"]
        for user in ACCESS["users"]
        if may(broker, user, *row["command"].split()) is not (user in row["may"])
    ]
    assert wrong == []

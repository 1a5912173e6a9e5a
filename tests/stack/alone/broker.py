"""A RabbitMQ node with the rendered definitions, and what its users can do there."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from amqp import Connection
from amqp.basic_message import Message
from amqp.exceptions import AccessRefused, NotAllowed, ResourceLocked

from ..servers import container, free_ports, image
from ..stack import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONF = """
definitions.import_backend = local_filesystem
definitions.local.path = /definitions
loopback_users = none
"""
RENDERED = ROOT / "compose/config/rabbitmq"


@dataclass(frozen=True)
class Broker:
    """A single node with the rendered definitions."""

    port: int
    management: int
    folder: Path
    container: str = ""

    @property
    def definitions(self) -> dict[str, Any]:
        """Its users and permissions as they are rendered."""
        found: dict[str, Any] = json.loads((self.folder / "rabbitmq/definitions/20-users.json").read_text("utf-8"))
        return found

    def password(self, user: str) -> str:
        """Return the password of a user."""
        return (self.folder / f"passwords/RABBITMQ_{user.upper()}_PASSWORD").read_text(encoding="utf-8").strip()

    def url(self, user: str) -> str:
        """Return the URL of the broker with a user's login."""
        return f"amqp://{user}:{self.password(user)}@127.0.0.1:{self.port}/holdfast"

    def connect(self, user: str, password: str = "") -> Connection:
        """Connect as a user, with the right password unless another one is given.

        Raises:
            amqp.exceptions.NotAllowed: the user may have no connection.
            amqp.exceptions.AccessRefused: the password is wrong.
        """
        host, known = f"127.0.0.1:{self.port}", password or self.password(user)
        connection = Connection(host, userid=user, password=known, virtual_host="holdfast", confirm_publish=True)
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

    def may(self, user: str, verb: str, *names: str) -> bool:
        """Try an operation, as a line of ``tests/access.yml`` names it, and say whether the broker lets the user."""
        if verb == "read":
            return self.reads(user, *names)

        def attempt() -> list[bool]:
            try:
                with self.connect(user) as connection:
                    act(connection.channel(), verb, *names)
            except (AccessRefused, NotAllowed):
                return [False]
            except ResourceLocked:  # the queue of that name that the user before had is just going
                return []
            return [True]

        return wait_until(attempt, f"{verb} {names} as {user}", 30)[0]


def act(channel: Any, verb: str, name: str = "", exchange: str = "") -> None:
    """Do what a line of the table says."""
    if verb == "publish":
        where, key = ("", "default") if name == "amq.default" else (name, "default")
        channel.basic_publish(Message("{}"), exchange=where, routing_key=key)
    elif verb == "consume":
        channel.basic_cancel(channel.basic_consume(name, callback=lambda _: None))
    elif verb == "get":
        channel.basic_get(name)
    elif verb == "purge":
        channel.queue_purge(name)
    elif verb == "declare":
        channel.queue_declare(name, exclusive=True, auto_delete=True)
    elif verb == "listen":
        channel.queue_declare(name, exclusive=True, auto_delete=True)
        channel.queue_bind(name, exchange, "#")
    elif verb == "bind":
        channel.queue_bind(name, "tasks", "elsewhere")
    elif verb == "delete":
        channel.queue_delete(name)
    else:
        assert verb == "connect", verb


@pytest.fixture(scope="session")
def broker(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A node with the exchanges that Celery declares, and a queue that nobody needs."""
    folder = tmp_path_factory.mktemp("broker")
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)
    shutil.copytree(filled / "rabbitmq/definitions", folder / "definitions")
    shutil.copy(RENDERED / "definitions/10-topology.json", folder / "definitions")
    rendered = (RENDERED / "rabbitmq.conf").read_text(encoding="utf-8").splitlines()
    logs = "\n".join(line for line in rendered if line.startswith("log."))
    (folder / "rabbitmq.conf").write_text(f"{CONF}{logs}\n", encoding="utf-8")
    port, management = free_ports(2)
    ports = ("--publish", f"127.0.0.1:{port}:5672", "--publish", f"127.0.0.1:{management}:15672")
    files = ("--volume", f"{folder}/rabbitmq.conf:/etc/rabbitmq/rabbitmq.conf:ro",
             "--volume", f"{folder}/definitions:/definitions:ro")  # fmt: skip
    with container(*ports, *files, image("rabbitmq")) as name:
        broker = Broker(port, management, filled, name)
        wait_until(lambda: broker.reads("admin", "queues/holdfast/default"), "the definitions are there", 180)
        # its port for AMQP opens last; what is declared is what Celery and the test find there
        with wait_until(lambda: broker.connect("admin"), "the broker takes connections", 60) as connection:
            channel = connection.channel()
            for exchange, kind in (
                ("celery.pidbox", "fanout"),
                ("reply.celery.pidbox", "direct"),
                ("celeryev", "topic"),
            ):
                channel.exchange_declare(exchange, kind, durable=exchange == "celeryev", auto_delete=False)
            channel.queue_declare("victim", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        yield broker

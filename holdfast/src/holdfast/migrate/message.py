"""What kombu's redis transport has stored, as a message for RabbitMQ."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kombu.utils.json import loads

from holdfast.migrate.carry import in_time
from holdfast.publisher import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery
    from kombu import Queue

# Not `expiration`: its time would begin anew; the header `expires` says when the task is over. Not `user_id`: RabbitMQ
# refuses another one than the login.
KEPT = ("correlation_id", "reply_to", "priority", "message_id", "type", "app_id")


class UnreadableError(ValueError):
    """What is stored is no message of kombu, or no queue is known for it."""


@dataclass(frozen=True)
class Stored:
    """A message as kombu keeps it on Redis.

    Attributes:
        payload: the message: body, headers, properties.
        origin: exchange and routing key, of a message that a worker held; None for one that waited in its queue.
    """

    payload: Mapping[str, Any]
    origin: tuple[str, str] | None = None

    @classmethod
    def read(cls, raw: bytes, *, held: bool) -> Stored:
        """Read one.

        Args:
            raw: the JSON.
            held: it is what kombu stores of a message that a worker has.

        Raises:
            UnreadableError: it is none.
        """
        try:
            found = loads(raw.decode())
            payload, exchange, key = found if held else (found, "", "")
            payload = {**payload, "properties": dict(payload["properties"]), "headers": dict(payload["headers"])}
        except (LookupError, TypeError, ValueError) as error:
            raise UnreadableError(f"it is no message of kombu ({error!r})") from error
        return cls(payload, (exchange or "", key or "") if held else None)

    @property
    def task_id(self) -> str:
        """The task's id, or a dash."""
        return str(self.payload["headers"].get("id") or self.payload["properties"].get("correlation_id") or "-")

    @property
    def eta(self) -> str | None:
        """When the task is due, as ISO text."""
        found: str | None = self.payload["headers"].get("eta")
        return found

    def queues(self, bindings: Mapping[str, Iterable[tuple[str, str, str]]]) -> list[str]:
        """Return the queues that kombu gives a message back to when its worker stops: all that its key is bound to.

        Raises:
            UnreadableError: there is none.
        """
        exchange, key = self.origin or ("", "")
        table = bindings.get(exchange, ()) if exchange else [(key, "", key)]
        found = {queue for own, pattern, queue in table if (re.match(pattern, key) if pattern else own == key)}
        if not found:
            raise UnreadableError(f"no queue is bound to the exchange {exchange!r} for the key {key!r}")
        return sorted(found)


@dataclass(frozen=True)
class Targets:
    """Where messages go.

    Attributes:
        app: the application on RabbitMQ.
        names: old name of a queue: new name, where they differ.
        skipped: queues of another application, which stay.
        turned: the application counts priorities the other way round, as RabbitMQ does.
    """

    app: Celery[Any]
    names: Mapping[str, str]
    skipped: frozenset[str]
    turned: bool = False

    def queue(self, old: str) -> Queue | None:
        """Return the queue for messages of an old one; None when the application has none."""
        name = self.names.get(old, old)
        queues: Any = self.app.amqp.queues
        if name not in queues and not self.app.conf.task_create_missing_queues:
            return None
        found: Queue = queues[name]
        return found

    def queues(self, old: Iterable[str]) -> list[Queue]:
        """Return the queues for a message that belongs to these; none when all of them are skipped.

        Raises:
            UnreadableError: one of them is not known.
        """
        names = [name for name in old if name not in self.skipped]
        found = [queue for name in names if (queue := self.queue(name)) is not None]
        if len(found) < len(names):
            raise UnreadableError(f"the application has no queue for it: {', '.join(names)}")
        return found

    def place(self, queue: Queue) -> tuple[str, str]:
        """Return exchange and routing key of a queue."""
        exchange: Any = queue.exchange
        return (exchange.name, queue.routing_key or "") if exchange else ("", queue.name)

    def message(self, stored: Stored, queue: Queue) -> Message:
        """Return the message to publish; one with an ETA waits in the broker where Celery lets new ones wait there.

        Raises:
            UnreadableError: body, priority or ETA cannot be read.
        """
        payload, properties = stored.payload, stored.payload["properties"]
        kept = {name: properties[name] for name in KEPT if properties.get(name) is not None}
        encoding, charset = properties.get("body_encoding"), payload.get("content-encoding") or "utf-8"
        headers = {name: value for name, value in payload["headers"].items() if name != "redelivered"}  # kombu's mark
        try:
            if self.turned and "priority" in kept:
                kept["priority"] = 9 - kept["priority"]  # kombu's range on Redis is 0 to 9
            body = payload["body"]
            raw = b64decode(body) if encoding == "base64" else body.encode("utf-8" if charset == "binary" else charset)
            exchange, key = self.place(queue)
            made = Message(exchange, key, raw, payload.get("content-type") or "", charset, headers,
                           {"delivery_mode": 2, **kept})  # fmt: skip
            return in_time(self.app, queue, made)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UnreadableError(f"its body, priority or ETA cannot be read ({error!r})") from error

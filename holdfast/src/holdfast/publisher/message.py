"""A message as it travels: readable for storage (:class:`Message`), encoded for the socket (:class:`Wire`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct, error
from typing import TYPE_CHECKING, Any, cast

import amqp
from amqp.exceptions import AMQPError
from amqp.serialization import decode_properties_basic
from kombu import Producer

from holdfast.audit import marks
from holdfast.publisher.errors import Refused
from holdfast.serialization import limit_passes

if TYPE_CHECKING:
    from kombu import Connection

    from holdfast.audit.marks import Mark

CHANNEL = 1  # a publishing connection has one channel
_PUBLISH = b"\x00\x3c\x00\x28\x00\x00"  # class 60 (basic), method 40 (publish), reserved short
_MANDATORY = b"\x01"
_FRAME = Struct(">BHI")  # type, channel, payload size
_CONTENT = Struct(">BHIHHQ")  # the same, then class, weight, body size
_END = b"\xce"
_PROPERTIES = 131_072 - 8 - 12  # bytes; they travel in one frame, and frame_max is 131072 by default on both sides

_encoder: Any = Producer(cast("Connection", None))  # kombu's serialisation and compression, without a channel


@dataclass(frozen=True, slots=True)
class Wire:
    """One encoded message.

    Attributes:
        task_id: the correlation id, by which a returned message is recognised.
        exchange: its name.
        routing_key: the message's key.
        properties: flags and values of the basic properties, headers included, as AMQP encodes them.
        body: the serialised arguments.
        mark: what is noted of a message that is audited; it is in the headers, too.
    """

    task_id: str | None
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    mark: Mark | None = None

    @property
    def key(self) -> tuple[str, str, str | None]:
        """What a ``basic.return`` of this message carries, too."""
        return self.exchange, self.routing_key, self.task_id

    def check_size(self, max_bytes: int) -> None:
        """Look at the size of the body.

        Args:
            max_bytes: what is allowed, in bytes.

        Raises:
            Refused: it is larger; the broker would close the channel, and with it everything in flight.
        """
        if len(self.body) > max_bytes:
            raise Refused(
                f"its body has {len(self.body)} bytes, {max_bytes} are allowed; pass a reference to the data, or raise "
                "max_message_size of the broker and holdfast_publish_max_bytes together",
                task_id=self.task_id,
            )

    def frames(self, frame_max: int) -> bytes:
        """Return the bytes of a mandatory ``basic.publish``.

        Args:
            frame_max: the largest frame that was negotiated, in bytes.
        """
        body, props, room = self.body, self.properties, frame_max - 8
        parts = [
            publish_frame(self.exchange, self.routing_key),
            _CONTENT.pack(2, CHANNEL, 12 + len(props), 60, 0, len(body)),
            props,
            _END,
        ]
        for start in range(0, len(body), room):
            chunk = body[start : start + room] if len(body) > room else body
            parts += (_FRAME.pack(3, CHANNEL, len(chunk)), chunk, _END)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Message:
    """One message in plain values, fit for storing: what an outbox keeps and publishes later.

    Attributes:
        exchange: its name.
        routing_key: the message's key.
        body: the serialised arguments.
        content_type: for instance ``application/json``.
        content_encoding: for instance ``utf-8``.
        headers: the application headers (Celery's task headers).
        properties: the other basic properties: ``correlation_id``, ``priority``, ``delivery_mode``, ``expiration`` (a
            string of milliseconds), ...
    """

    exchange: str
    routing_key: str
    body: bytes
    content_type: str
    content_encoding: str
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def task_id(self) -> str | None:
        """The id of the task, if the message is one."""
        return self.properties.get("correlation_id")

    def encode(self) -> Wire:
        """Encode headers and properties as AMQP does.

        Raises:
            Refused: AMQP cannot carry this message; nothing of it was written to a connection that others share.
        """
        try:
            content: Any = amqp.Message(
                content_type=self.content_type,
                content_encoding=self.content_encoding,
                application_headers=self.headers,
                **self.properties,
            )
            publish_frame(self.exchange, self.routing_key)
            properties = content._serialize_properties()
        except (AMQPError, TypeError, ValueError, OverflowError, error) as exc:
            raise Refused(f"AMQP cannot carry its names, headers or properties: {exc}", task_id=self.task_id) from exc
        if len(properties) > _PROPERTIES:
            raise Refused(
                f"its headers and properties have {len(properties)} bytes, {_PROPERTIES} are allowed (one AMQP frame); "
                "move data from the headers into the arguments",
                task_id=self.task_id,
            )
        return Wire(self.task_id, self.exchange, self.routing_key, properties, self.body, marks.of(self.headers))

    @classmethod
    def decode(cls, wire: Wire) -> Message:
        """Return the readable form of an encoded message."""
        properties, _ = decode_properties_basic(wire.properties, 0)
        return cls(
            wire.exchange,
            wire.routing_key,
            wire.body,
            properties.pop("content_type"),
            properties.pop("content_encoding"),
            properties.pop("application_headers", {}),
            properties,
        )


def prepare(
    body: Any,
    *,
    exchange: Any,
    routing_key: str,
    serializer: str | None = None,
    compression: str | None = None,
    headers: dict[str, Any] | None = None,
    delivery_mode: Any = None,
    expiration: float | None = None,
    priority: int | None = 0,
    content_type: str | None = None,
    content_encoding: str | None = None,
    **properties: Any,
) -> Message:
    """Build the message that ``kombu.Producer.publish`` would send for the same arguments.

    Args:
        body: what the serializer gets.
        exchange: name or :class:`kombu.Exchange`.
        expiration: seconds that the message may wait in a queue.
        properties: further AMQP basic properties. The rest is as in kombu.
    """
    for option in ("mandatory", "immediate", "retry", "retry_policy", "timeout", "confirm_timeout", "declare"):
        properties.pop(option, None)
    headers = {} if headers is None else headers
    exchange, properties["delivery_mode"] = _encoder._delivery_details(exchange, delivery_mode)
    if expiration is not None:
        properties["expiration"] = str(int(expiration * 1000))
    with limit_passes():
        data, content_type, content_encoding = _encoder._prepare(
            body, serializer, content_type, content_encoding, compression, headers
        )
    raw = data.encode(content_encoding or "utf-8") if isinstance(data, str) else data
    return Message(
        exchange,
        routing_key,
        raw,
        content_type or "",
        content_encoding or "",
        headers,
        {"priority": priority, **properties},
    )


@lru_cache(maxsize=1024)
def publish_frame(exchange: str, routing_key: str) -> bytes:
    """Return the method frame of a mandatory publish; the same few are used all the time."""
    payload = b"".join((_PUBLISH, _short(exchange), _short(routing_key), _MANDATORY))
    return b"".join((_FRAME.pack(1, CHANNEL, len(payload)), payload, _END))


def _short(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise ValueError(f"AMQP names have at most 255 bytes, this one has {len(raw)}: {text[:60]!r}...")
    return bytes((len(raw),)) + raw

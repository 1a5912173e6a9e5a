"""The notice of an expiry: a small message that arrives when the time of a task is over, wherever the task waits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from kombu.transport.native_delayed_delivery import (
    MAX_LEVEL,
    MAX_NUMBER_OF_BITS_TO_USE,
    calculate_routing_key,
    level_name,
)

from holdfast.expiry import remaining
from holdfast.publisher.message import Message

if TYPE_CHECKING:
    from holdfast.publisher.message import Wire

_EXPIRES = b"\x07expiresS"  # in the encoded headers: the name, and that its value is a text and not null
_LONGEST = 2**MAX_NUMBER_OF_BITS_TO_USE - 1  # seconds; the delay queues know no longer delay


def notice_of(wire: Wire, queue: str) -> Wire | None:
    """Return the notice that belongs to a task message, to be published with it.

    It has the headers of the task and none of its arguments.

    Args:
        wire: the message of the task.
        queue: what workers read notices from; it is bound to the exchange that ends all delays.

    Returns:
        None when the task does not expire, has expired, expires in more than eight years, when its time cannot be
        read, or when it stores no result that could tell.
    """
    if _EXPIRES not in wire.properties:  # costs a task that does not expire nothing else
        return None
    task = Message.decode(wire)
    left = remaining(task.headers.get("expires"))
    if task.headers.get("ignore_result") or left is None or not 0 < left.total_seconds() <= _LONGEST:
        return None
    return replace(
        task,
        exchange=level_name(MAX_LEVEL),
        routing_key=calculate_routing_key(math.ceil(left.total_seconds()), queue),
        body=b"null",
        content_type="application/json",
        content_encoding="utf-8",
    ).encode()

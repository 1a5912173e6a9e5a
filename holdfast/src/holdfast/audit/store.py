"""The notes in Redis: their keys, and how they are written."""

from __future__ import annotations

from collections import defaultdict
from time import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.audit.marks import Mark

PREFIX = "holdfast-audit:"  # what the users of ansible/roles/redis may write
BUCKETS = f"{PREFIX}buckets"  # sorted set: the minutes of which something was acknowledged
PASSED = f"{PREFIX}passed"  # sorted set: of each queue and priority, when the latest task that it gave out was due
EMPTY = f"{PREFIX}empty"  # sorted set: of each queue, when a worker has found it empty
ACKNOWLEDGED, ENDED, RETURNED, HELD = "acked", "ended", "returned", "held"  # sets, one for each minute
KEEP = 24 * 3600  # seconds after its minute for which a bucket is kept
HELD_FOR = 180  # seconds for which a note of what a worker holds counts


def key(kind: str, minute: int) -> str:
    """Return the key of a set.

    Args:
        kind: one of the above.
        minute: since the epoch.
    """
    return f"{PREFIX}{kind}:{minute}"


def life(minute: int) -> int:
    """Return for how many seconds from now a bucket is kept.

    Args:
        minute: since the epoch.
    """
    return int(max(0.0, minute * 60 - time())) + KEEP


def add(pipe: Any, kind: str, marks: Iterable[Mark]) -> None:
    """Write notes into their buckets.

    Args:
        pipe: a pipeline of redis-py.
        kind: of the notes.
        marks: of the messages.
    """
    buckets: dict[int, list[str]] = defaultdict(list)
    for mark in marks:
        buckets[mark.minute].append(mark.member)
    for minute, members in buckets.items():
        pipe.sadd(key(kind, minute), *members)
        pipe.expire(key(kind, minute), life(minute))
    if kind == ACKNOWLEDGED and buckets:
        pipe.zadd(BUCKETS, {str(minute): minute for minute in buckets})

"""The mark of a message that is audited, and what publisher and worker note of it: the same on both sides."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from holdfast.published import PUBLISHED_AT, now

if TYPE_CHECKING:
    from collections.abc import Mapping

AUDITED_AT = "audited_at"  # header that stands for PUBLISHED_AT here, where a message was made long before its publish
WHOLE = 2**32  # what a hash is below
SIGN = "+"  # before the time of a message of the sample; a number may have it


class Mark(NamedTuple):
    """What is noted of a message.

    Attributes:
        minute: in which its task is due, since the epoch: waiting for its time is no reason to miss it.
        member: time of publishing and task id. A retry has the id of the attempt before, and is another message.
    """

    minute: int
    member: str

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.member.partition(" ")[2]

    @property
    def published(self) -> float:
        """When the message was published, in seconds since the epoch."""
        return float(self.member.partition(" ")[0])


def stamp(task_id: str, limit: float) -> str:
    """Return the time of a message that is published now, with the sign if it belongs to the sample.

    Args:
        task_id: its task's; all messages of a task belong to it, or none.
        limit: the part of all tasks, as a part of :data:`WHOLE`.
    """
    return SIGN + now() if crc32(task_id.encode()) < limit else now()


def of(headers: Mapping[str, Any]) -> Mark | None:
    """Return the mark of a message; None when it is not audited.

    Args:
        headers: of the message; anybody may have written them.
    """
    at = headers.get(AUDITED_AT) or headers.get(PUBLISHED_AT)
    return made(at, headers.get("id"), headers.get("eta")) if isinstance(at, str) and at.startswith(SIGN) else None


def made(at: str, task_id: object, eta: object = None) -> Mark | None:
    """Return the mark of a message with these values; None when they are not those of the sample.

    Args:
        at: when it was published, as :func:`stamp` writes it.
        task_id: of the task.
        eta: when it is due, as Celery writes it.
    """
    if not (at.startswith(SIGN) and isinstance(task_id, str) and task_id.isprintable()):
        return None
    try:
        due = float(at)
        if isinstance(eta, str):
            moment = datetime.fromisoformat(eta.replace("Z", "+00:00"))  # Python 3.10 knows no Z
            due = max(due, (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp())
        return Mark(int(due // 60), f"{at} {task_id}")
    except (ValueError, OverflowError):
        return None

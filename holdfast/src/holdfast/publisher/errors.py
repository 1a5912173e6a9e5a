"""What a publish can end in other than an acknowledgement: one class per answer."""

from __future__ import annotations

from typing import ClassVar

from kombu.exceptions import OperationalError
from typing_extensions import Self


class NotAcknowledged(OperationalError):  # noqa: N818 - says what is known, like its subclasses
    """The broker did not acknowledge a task. Existing ``except kombu.exceptions.OperationalError`` handlers catch it.

    Attributes:
        retryable: True when the same message may be accepted later.
        outcome: what the metrics call it.
        detail: what was found, without the task.
        task_id: the id of the task, or None for a message that is not a task.
        maybe_published: True when a broker may have the message all the same, so that publishing it again can run the
            task twice.
    """

    retryable: ClassVar[bool] = True
    outcome: ClassVar[str]

    def __init__(self, detail: str, *, task_id: str | None = None, maybe_published: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.task_id = task_id
        self.maybe_published = maybe_published

    def __str__(self) -> str:
        about = "the broker may have it all the same" if self.maybe_published else "no broker has it"
        return f"task {self.task_id} was not acknowledged: {self.detail} ({about})"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.detail, self.task_id, self.maybe_published)

    def about(self, task_id: str | None, *, maybe_published: bool = False) -> Self:
        """Return a copy for another task, or with the memory that an earlier attempt may have reached a broker.

        Args:
            task_id: the task that the copy is about.
            maybe_published: what is known from earlier attempts; a True of this error stays True.
        """
        return type(self)(self.detail, task_id=task_id, maybe_published=self.maybe_published or maybe_published)


def _rebuild(
    kind: type[NotAcknowledged],
    detail: str,
    task_id: str | None,
    maybe_published: bool,
) -> NotAcknowledged:
    return kind(detail, task_id=task_id, maybe_published=maybe_published)


class Nacked(NotAcknowledged):
    """The broker answered no: the queue is full, or a majority of its members cannot be reached."""

    outcome = "nacked"


class Unroutable(NotAcknowledged):
    """No queue would have received the message: its exchange is missing (404) or nothing is bound for its key (312)."""

    retryable = False
    outcome = "returned"


class Refused(NotAcknowledged):
    """The broker will never take this message: too large, malformed, or not allowed for this user (403, 406)."""

    retryable = False
    outcome = "refused"


class TimedOut(NotAcknowledged):
    """No answer within the deadline: whether the broker has the message is unknown."""

    outcome = "timed_out"


class Blocked(NotAcknowledged):
    """The broker announced ``connection.blocked`` (memory or disk alarm) and did not lift it within the deadline."""

    outcome = "blocked"


class Disconnected(NotAcknowledged):
    """The connection ended after the message was sent and before the answer came."""

    outcome = "disconnected"


class Unreachable(NotAcknowledged):
    """No node could be connected to, or the node said that it cannot serve now (320, 541)."""

    outcome = "unreachable"

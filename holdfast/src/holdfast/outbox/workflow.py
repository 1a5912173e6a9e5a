"""A task or a whole canvas as finished messages: recorded when it is enqueued, repeated as often as it takes.

Celery itself builds the messages, so what cannot be published (arguments that do not serialise, an unknown queue)
raises in the business transaction, and every repetition carries the same task ids. While it does, the broker and the
result store are not touched: a business transaction must not depend on them.
"""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

from celery import Celery
from celery.backends.base import BaseBackend
from celery.canvas import maybe_signature
from celery.result import result_from_tuple
from kombu import Connection
from kombu.transport.native_delayed_delivery import MAX_NUMBER_OF_BITS_TO_USE, calculate_routing_key
from kombu.utils import json

from holdfast.publisher.message import Message
from holdfast.publisher.seam import prepare

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from celery.canvas import Signature

DELAY_EXCHANGE = f"celery_delayed_{MAX_NUMBER_OF_BITS_TO_USE - 1}"
_NO_DELAY = "0." * MAX_NUMBER_OF_BITS_TO_USE  # passes through all levels of the native delay at once


@dataclass(frozen=True, slots=True)
class Workflow:
    """What one outbox row holds.

    Attributes:
        task_id: id of the result: of the task, a chain's last task, a chord's body, or a group.
        messages: the messages to publish, in this order.
        chords: calls to the result store that a chord needs before its header runs, as ``[method, *arguments]``.
    """

    task_id: str
    messages: list[Message]
    chords: list[list[Any]] = field(default_factory=list)

    @property
    def task(self) -> str:
        """Name of the first task."""
        return str(self.messages[0].headers.get("task", ""))

    def dumps(self) -> str:
        """Return the stored form: JSON, whatever serializer the tasks use."""
        return str(json.dumps(asdict(self)))

    @classmethod
    def loads(cls, text: str) -> Workflow:
        """Read the stored form.

        Raises:
            ValueError: it is not JSON.
            TypeError: it is not a workflow.
            KeyError: likewise.
        """
        stored = json.loads(text)
        return cls(stored["task_id"], [Message(**message) for message in stored["messages"]], stored["chords"])

    def prepare(self, app: Celery) -> None:
        """Tell the result store about the chords. Doing it again is harmless: parts are counted by task id."""
        for method, *arguments in self.chords:
            if method == "apply_chord":
                group_id, results, body, options = arguments
                header = group_id, [result_from_tuple(result, app) for result in results]
                app.backend.apply_chord(header, maybe_signature(body, app=app), **options)
            else:
                app.backend.set_chord_size(*arguments)


def record(signature: Signature[Any]) -> Workflow:
    """Build the messages of a signature without sending them.

    Args:
        signature: a task signature, chain, group or chord; it is not changed.

    Raises:
        kombu.exceptions.EncodeError: an argument cannot be serialised.
        celery.exceptions.QueueNotFound: it names an unknown queue.
        TypeError: the arguments do not fit the task.
        ValueError: there is nothing to publish: the canvas is empty, or the app runs its tasks itself.
    """
    if signature.app.conf.task_always_eager:
        raise ValueError(
            "task_always_eager is set, so the task would run now instead of being stored. Leave it unset where code "
            "enqueues; a test can look into the table holdfast_outbox instead."
        )
    tape = _Tape(signature.app)
    token = _recording.set(tape)
    try:
        result = signature.clone().apply_async()
    finally:
        _recording.reset(token)
    if not tape.messages:
        raise ValueError(f"{signature!r} has no message to publish. Enqueue a signature with at least one task.")
    return Workflow(result.id, tape.messages, tape.store.calls)


def due_in(message: Message, now: datetime | None = None) -> Message:
    """Return the message with what is left of its delay.

    The native delay counts from the publish, and the row may have waited for long: without this a task with a countdown
    would come late by the time that it spent in the outbox.

    Args:
        message: as it was recorded.
        now: the current time.
    """
    eta = message.headers.get("eta")
    if message.exchange != DELAY_EXCHANGE or not eta:
        return message
    at = datetime.fromisoformat(eta)
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)  # what Celery means by a naive time
    left = int((at - (now or datetime.now(timezone.utc))).total_seconds())
    key = calculate_routing_key(max(left, 1), message.routing_key)
    if left < 1:
        key = _NO_DELAY + key[len(_NO_DELAY) :]
    return replace(message, routing_key=key)


class _Store(BaseBackend):  # type: ignore[misc]  # an alias that the stubs do not know
    """Stands in for the result store: notes what chords would tell it, ignores the rest."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self.calls: list[list[Any]] = []

    def apply_chord(self, header_result_args: tuple[str, list[Any]], body: Any, **options: Any) -> None:
        group_id, results = header_result_args
        self.calls.append(["apply_chord", group_id, [result.as_tuple() for result in results], dict(body), options])

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        self.calls.append(["set_chord_size", group_id, chord_size])


class _Tape:
    """Stands in for a producer: keeps the messages instead of sending them."""

    def __init__(self, app: Celery) -> None:
        self.connection = Connection("memory://")  # Celery asks it for its error classes; it is never opened
        self.messages: list[Message] = []
        self.store = _Store(app)

    def publish(self, body: Any, **options: Any) -> None:
        """Take what ``kombu.Producer.publish`` would send."""
        if "correlation_id" in options:  # else a task-sent event: the publish that it tells of has not happened
            self.messages.append(prepare(body, **options))


_recording: ContextVar[_Tape | None] = ContextVar("holdfast_outbox_recording", default=None)


def _intercept() -> None:
    """Let Celery ask the running recording, if there is one, for its producer and its result store.

    Passing ``producer=`` is not enough: a chord drops it, and each task of a group subscribes to its result.
    """
    acquire, backend = Celery.producer_or_acquire, cast("property", Celery.backend)

    def producer_or_acquire(self: Celery, producer: Any = None) -> AbstractContextManager[Any]:
        tape = _recording.get()
        return acquire(self, producer) if tape is None else nullcontext(tape)

    def current_backend(self: Celery) -> Any:
        tape = _recording.get()
        return backend.fget(self) if tape is None else tape.store  # type: ignore[misc]  # a property has a getter

    setattr(Celery, "producer_or_acquire", producer_or_acquire)  # noqa: B010 - typed as a method
    setattr(Celery, "backend", property(current_backend, backend.fset))  # noqa: B010 - typed as read-only


_intercept()

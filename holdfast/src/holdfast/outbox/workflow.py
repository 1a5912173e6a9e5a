"""A task or a whole canvas as finished messages: recorded when it is enqueued, repeated as often as it takes.

Celery itself builds the messages, so what cannot be published (arguments that do not serialise, an unknown queue)
raises in the business transaction, and every repetition carries the same task ids. While it does, the broker and the
result store are not touched: a business transaction must not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery.canvas import maybe_signature
from celery.result import result_from_tuple
from kombu.transport.native_delayed_delivery import MAX_NUMBER_OF_BITS_TO_USE, calculate_routing_key
from kombu.utils import json

from holdfast.publisher import delay
from holdfast.publisher.message import Message
from holdfast.publisher.policy import Policy
from holdfast.publisher.recorder import recording

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature

_NO_DELAY = "0." * MAX_NUMBER_OF_BITS_TO_USE  # passes through all levels of the native delay at once

_FIELDS = tuple(Message.__dataclass_fields__)


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
        messages = [{name: getattr(message, name) for name in _FIELDS} for message in self.messages]
        return str(json.dumps({"task_id": self.task_id, "messages": messages, "chords": self.chords}))

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
        holdfast.publisher.Refused: a message is too large, or AMQP cannot carry its names or headers.
        ValueError: there is nothing to publish: the canvas is empty, or the app runs its tasks itself.
    """
    if signature.app.conf.task_always_eager:
        raise ValueError(
            "task_always_eager is set, so the task would run now instead of being stored. Leave it unset where code "
            "records messages; a test can look into the table holdfast_outbox instead."
        )
    with recording(signature.app) as tape:
        result = signature.clone().apply_async()
    if not tape.messages:
        raise ValueError(f"{signature!r} has no message to publish. Enqueue a signature with at least one task.")
    limit = Policy.value(signature.app.conf, "max_bytes")
    for message in tape.messages:
        message.encode().check_size(limit)
    return Workflow(result.id, tape.messages, tape.chords)


def due_in(message: Message, now: datetime | None = None) -> Message:
    """Return the message with what is left of its delay.

    The native delay counts from the publish, and the row may have waited for long: without this a task with a countdown
    would come late by the time that it spent in the outbox.

    Args:
        message: as it was recorded.
        now: the current time.
    """
    eta = message.headers.get("eta")
    if message.exchange != delay.EXCHANGE or not eta:
        return message
    at = datetime.fromisoformat(eta)
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)  # what Celery means by a naive time
    left = int((at - (now or datetime.now(timezone.utc))).total_seconds())
    key = calculate_routing_key(max(left, 1), message.routing_key)
    if left < 1:
        key = _NO_DELAY + key[len(_NO_DELAY) :]
    return replace(message, routing_key=key)

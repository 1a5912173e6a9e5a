"""The one recorder: takes the messages that Celery builds, instead of a broker, and notes what chords need.

``publish_many`` collects messages that it publishes itself; the outbox records whole canvases for later. Celery asks
an app for its producer and for its result store, so :func:`attach` gives the app both in a form that knows of a running
record. Threads that record nothing are not affected.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

from kombu import Connection

from holdfast.publisher.message import Message, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from celery import Celery


@dataclass
class Tape:
    """What was recorded; also stands in for a producer.

    Attributes:
        silent: nothing is asked of broker or result store, not even by events.
        only: the id of the one task that is recorded, None for all; others are published as if nothing were recorded.
        messages: the messages of tasks, in their order.
        chords: the calls to the result store that chords need before they run, as ``[method, *arguments]``.
        connection: Celery asks it for its error classes; it is never opened.
    """

    silent: bool
    only: str | None = None
    messages: list[Message] = field(default_factory=list)
    chords: list[list[Any]] = field(default_factory=list)
    connection: Connection = field(default_factory=lambda: Connection("memory://"))

    def publish(self, body: Any, **options: Any) -> None:
        """Take what ``kombu.Producer.publish`` would send, unless it is an event of a publish that did not happen."""
        if "correlation_id" in options:
            self.messages.append(prepare(body, **options))

    def apply_chord(self, header_result_args: tuple[str, Any], body: Any, **options: Any) -> None:
        """Note a chord as ``Backend.apply_chord`` gets it, in plain values."""
        group_id, results = header_result_args
        self.chords.append(["apply_chord", group_id, [result.as_tuple() for result in results], dict(body), options])

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Note how many members a chord waits for."""
        self.chords.append(["set_chord_size", group_id, chord_size])


_tape: ContextVar[Tape | None] = ContextVar("holdfast_tape", default=None)


def running() -> Tape | None:
    """Return the tape of this thread or coroutine, None when nothing is recorded."""
    return _tape.get()


@contextmanager
def collecting(only: str | None = None) -> Iterator[list[Message]]:
    """Collect the task messages that this thread would publish inside the block, instead of publishing them.

    For apps on which ``holdfast.publisher.install`` was called. The result store hears about chords at once.

    Args:
        only: the id of the one task whose message is collected. What a signal handler or a finalizer publishes in the
            middle of it is published. None collects all.

    Returns:
        The list that they are appended to.
    """
    with _running(Tape(silent=False, only=only)) as tape:
        yield tape.messages


@contextmanager
def recording(app: Celery) -> Iterator[Tape]:
    """Record what this thread would publish inside the block; neither broker nor result store is asked.

    Args:
        app: any Celery app.

    Returns:
        The tape.
    """
    attach(app)
    attach_backend(app.backend)
    with _running(Tape(silent=True)) as tape:
        yield tape


@contextmanager
def _running(tape: Tape) -> Iterator[Tape]:
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


def attach(app: Celery) -> None:
    """Let the app give a running record where Celery asks for a producer; doing it again changes nothing.

    Passing ``producer=`` to a canvas is not enough: a chord drops it.
    """
    acquire = app.producer_or_acquire
    if hasattr(acquire, "__wrapped__"):
        return

    @wraps(acquire)
    def producer_or_acquire(producer: Any = None) -> AbstractContextManager[Any]:
        tape = _tape.get()
        return nullcontext(tape) if tape and tape.silent else acquire(producer)

    vars(app)["producer_or_acquire"] = producer_or_acquire


def attach_backend(backend: Any) -> Any:
    """Let a result backend note calls of chords on a running record; doing it again changes nothing.

    Returns:
        The same backend.
    """
    for name in ("on_task_call", "add_pending_result", "apply_chord", "set_chord_size"):
        method = getattr(backend, name, None)
        if method is not None and not hasattr(method, "__wrapped__"):
            vars(backend)[name] = _noting(method, name, backend)
    return backend


def _noting(method: Callable[..., Any], name: str, backend: Any) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        tape = _tape.get()
        if tape is None or not tape.silent:
            return method(*args, **kwargs)
        if name in {"on_task_call", "add_pending_result"}:  # they subscribe to a result
            return None
        backend.ensure_chords_allowed()
        return getattr(tape, name)(*args, **kwargs)

    return call

"""One thread publishes for all coroutines of a process: they share its window of unanswered messages.

The thread runs the same pipeline as ``publish_many``, with the calls of coroutines as its endless input. A coroutine
puts its call into a queue and awaits a future; its event loop never waits for a lock, a socket or the broker.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from holdfast.publisher import Disconnected, NotAcknowledged, Outcome, TimedOut, publisher_of
from holdfast.publisher.pipeline import Pipeline
from holdfast.publisher.template import Templates

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextvars import Context

    from celery import Celery

    from holdfast.publisher.message import Wire
    from holdfast.publisher.pipeline import Entry

T = TypeVar("T")
logger = logging.getLogger(__name__)

GRACE = 0.5  # seconds after its deadline at which a call ends at the latest: the pipeline may wait for another message
_DELIVER = 100  # futures settled in one callback; more would hold up the other callbacks of the loop
LATE = TimedOut("its turn did not come within the deadline")
_NO_ANSWER = TimedOut("no answer within the deadline", maybe_published=True)
_HELPERS = 8  # threads for what Celery can only do blocking: asking for a result, announcing a chord


class PublishCancelled(NotAcknowledged):
    """The coroutine was cancelled while it waited for the broker's answer.

    It is the cause of the ``CancelledError``, which stays as asyncio made it: ``asyncio.timeout`` and task groups know
    their own cancellation by it. :func:`holdfast.aio.verdict` finds it. ``task_id`` is None for a canvas and several
    signatures; ``maybe_published`` is False when the publish had not begun, and then it never begins.
    """

    outcome = "cancelled"


class Call:
    """What one coroutine awaits: the outcomes of one or more messages.

    Args:
        build: makes the messages, in the thread; an exception that it yields becomes the outcome of that message, one
            that it raises ends the call.
        context: in which ``build`` runs.
        task_ids: what there are outcomes for when the messages are never built.
        seconds: until the verdict.

    Attributes:
        future: its result is the list of outcomes, in the order of the messages.
    """

    def __init__(
        self,
        build: Callable[[Templates], Iterable[Wire | Exception]],
        context: Context,
        task_ids: Sequence[str | None],
        seconds: float,
    ) -> None:
        self.build = build
        self.context = context
        self.task_id = task_ids[0] if len(task_ids) == 1 else None
        self.end = monotonic() + seconds
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Outcome]] = self.loop.create_future()
        self.mailbox: Mailbox
        self._left = 0
        self._ended: list[Outcome | str | None] = list(task_ids)  # the id of a task whose outcome is not known
        self._taken = Lock()

    def take(self) -> bool:
        """Claim the call, for publishing or for giving it up; True for whoever is the first."""
        return self._taken.acquire(blocking=False)

    @property
    def taken(self) -> bool:
        """True when it is claimed."""
        return self._taken.locked()

    def begin(self, wires: Sequence[Wire | Exception]) -> bool:
        """Claim the call for publishing these messages; False when it was given up before."""
        self._left = len(wires)
        self._ended = [
            Outcome(place, getattr(wire, "task_id", None), wire) if isinstance(wire, Exception) else wire.task_id
            for place, wire in enumerate(wires)
        ]
        return self.take()

    def settle(self, place: int, outcome: Outcome) -> bool:
        """Note how one message ended; True when it was the last one."""
        self._ended[place] = outcome
        self._left -= 1
        return not self._left

    def outcomes(self, unknown: NotAcknowledged = _NO_ANSWER) -> list[Outcome]:
        """Return how the messages ended.

        Args:
            unknown: what is said of a message whose end is not known.
        """
        return [
            one if isinstance(one, Outcome) else Outcome(place, one, unknown.about(one))
            for place, one in enumerate(self._ended)
        ]

    def expire(self) -> None:
        """End the call because its deadline has passed; what is known of its messages stays."""
        if not self.future.done():
            begun = not self.take()
            unknown = _NO_ANSWER if begun else LATE
            self.future.set_result(self.outcomes(unknown))

    def cancelled(self) -> PublishCancelled:
        """Give the call up and return what is known about it."""
        if not self.future.done() or self.future.cancelled():
            maybe = not self.take()
        else:
            errors = [] if self.future.exception() else [outcome.error for outcome in self.future.result()]
            maybe = any(error is None or getattr(error, "maybe_published", False) for error in errors)
        return PublishCancelled("its coroutine was cancelled", task_id=self.task_id, maybe_published=maybe)


class Mailbox:
    """Brings settled calls to their event loop, many with one wake-up.

    Args:
        loop: the event loop.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._settled: deque[tuple[Call, list[Outcome] | Exception]] = deque()
        self._woken = False

    def put(self, call: Call, ended: list[Outcome] | Exception) -> None:
        """Settle a call, from any thread; nothing happens when its loop is closed."""
        self._settled.append((call, ended))
        if not self._woken:
            self._woken = True
            self._wake(self._loop.call_soon_threadsafe)

    def _wake(self, soon: Callable[..., object]) -> None:
        try:
            soon(self._deliver)
        except RuntimeError:  # the loop is closed: nobody waits
            self._settled.clear()

    def _deliver(self) -> None:
        self._woken = False  # first: what is put from now on wakes the loop again
        for _ in range(min(_DELIVER, len(self._settled))):
            call, ended = self._settled.popleft()
            if call.future.done():  # cancelled, or expired
                continue
            if isinstance(ended, Exception):
                call.future.set_exception(ended)
            else:
                call.future.set_result(ended)
        if self._settled and not self._woken:
            self._woken = True
            self._wake(self._loop.call_soon)


class Dispatcher:
    """The publishing thread of one app in this process.

    Args:
        app: an app on which ``holdfast.install`` was called.

    Raises:
        TypeError: it was not called.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._publisher = publisher_of(app)
        self.deadline = self._publisher.policy.deadline
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._under_way: dict[int, tuple[Call, int]] = {}  # by the index of the message: the call, its place there
        self._mailboxes: WeakValueDictionary[AbstractEventLoop, Mailbox] = WeakValueDictionary()  # as long as calls
        self._index = 0  # of the next message
        self._templates: Templates
        self._closed = False
        self._ended = False
        self._thread = Thread(target=self._run, name="holdfast publisher", daemon=True)
        self._thread.start()

    async def publish(self, call: Call) -> list[Outcome]:
        """Publish the messages of a call.

        Args:
            call: made by the running loop.

        Returns:
            How they ended, in their order; ``TimedOut`` for those without an answer in time.

        Raises:
            CancelledError: the coroutine was cancelled; its cause is a :class:`PublishCancelled`.
            Exception: what the call's ``build`` raised.
        """
        call.mailbox = self._mailboxes.get(call.loop) or self._mailboxes.setdefault(call.loop, Mailbox(call.loop))
        timer = call.loop.call_later(max(0.0, call.end - monotonic()) + GRACE, call.expire)
        self.accept(call)
        try:
            return await call.future
        except asyncio.CancelledError as cancelled:
            raise cancelled from call.cancelled()
        finally:
            timer.cancel()

    def accept(self, call: Call) -> None:
        """Put a call into the queue, from any thread; after the end, into that of the next dispatcher."""
        self._calls.put(call)
        if self._ended:  # asked after the put, and set before the thread hands on: one of the two sees the call
            self._hand_on()

    def close(self) -> None:
        """Publish what was put before, then end the thread and close the connections; blocks until then."""
        self._calls.put(None)
        self._thread.join()

    def _hand_on(self) -> None:
        with suppress(Empty):
            while True:
                call = self._calls.get_nowait()
                successor = dispatcher_of(self._app)
                if call is not None and successor is not None:
                    successor.accept(call)

    # -- in the thread

    def _run(self) -> None:
        while not self._closed:
            try:
                self._serve()
            except Exception as error:
                logger.exception("the thread that publishes for coroutines failed and starts anew")
                self._settle_all(Disconnected(repr(error), maybe_published=True))
        try:
            self._publisher.close()  # before another dispatcher opens connections there
        finally:
            self._ended = True
            self._hand_on()

    def _serve(self) -> None:
        for outcome in Pipeline(self._publisher).stream(self._entries()):
            self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        call, place = self._under_way.pop(outcome.index)
        if call.settle(place, outcome):
            call.mailbox.put(call, call.outcomes())

    def _settle_all(self, unknown: NotAcknowledged) -> None:
        for call in {call for call, _ in self._under_way.values()}:
            call.mailbox.put(call, call.outcomes(unknown))
        self._under_way.clear()

    def _entries(self) -> Iterator[Entry | None]:
        self._index = 0
        self._templates = Templates(self._app)
        while not self._closed:
            try:  # no variable here holds a call, and with it its event loop, until the next one comes
                wires, end = self._begin(self._calls.get(block=not self._under_way))
            except Empty:
                yield None
                continue
            for wire in wires:
                yield wire, end - monotonic()

    def _begin(self, call: Call | None) -> tuple[list[Wire | Exception], float]:
        """Return the messages of a call and when it ends; none when there is nothing to publish."""
        if call is None:
            self._closed = True
            return [], 0.0
        if call.taken:
            return [], call.end
        if not self._under_way:
            self._templates = Templates(self._app)  # what it knows of the app may have changed while nobody published
        wires = self._built(call)
        if not wires or not call.begin(wires):
            return [], call.end
        self._under_way.update((self._index + place, (call, place)) for place in range(len(wires)))
        self._index += len(wires)
        return wires, call.end

    def _built(self, call: Call) -> list[Wire | Exception]:
        """Return the messages of a call; without any it is settled."""
        try:
            wires = call.context.run(lambda: list(call.build(self._templates)))
        except Exception as error:  # noqa: BLE001 - belongs to the coroutine; the thread serves the others
            call.mailbox.put(call, error)
            return []
        if not wires:
            call.mailbox.put(call, [])
        return wires


_dispatchers: dict[Celery, Dispatcher | None] = {}
_making = Lock()
_helpers = ThreadPoolExecutor(_HELPERS, "holdfast aio")  # not the loop's own, which the application needs


def dispatcher_of(app: Celery) -> Dispatcher | None:
    """Return the dispatcher of an app in this process; None when its broker gives no confirms.

    Raises:
        TypeError: ``holdfast.install`` was not called for the app.
    """
    with _making:
        if app not in _dispatchers:
            confirms = app.connection_for_write().transport.driver_type == "amqp"
            _dispatchers[app] = Dispatcher(app) if confirms else None
        return _dispatchers[app]


async def in_thread(function: Callable[[], T]) -> T:
    """Run something that blocks, in the context of this coroutine.

    Args:
        function: called without arguments; goes on when the coroutine is cancelled.
    """
    return await asyncio.get_running_loop().run_in_executor(_helpers, copy_context().run, function)


def close(app: Celery) -> None:
    """Publish what is under way, then end the app's thread and close its connections; the next publish begins anew."""
    found = _dispatchers.pop(app, None)
    if found is not None:
        found.close()


def _forget_all() -> None:
    """Start anew in a forked child, which has none of the threads."""
    global _making, _helpers  # noqa: PLW0603 - the parent may have held the lock
    _making = Lock()
    _helpers = ThreadPoolExecutor(_HELPERS, "holdfast aio")
    _dispatchers.clear()


os.register_at_fork(after_in_child=_forget_all)

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
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from holdfast.publisher import Disconnected, NotAcknowledged, Outcome, TimedOut, publisher_of
from holdfast.publisher.pipeline import Pipeline
from holdfast.publisher.template import Templates

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterable, Iterator
    from contextvars import Context

    from celery import Celery

    from holdfast.publisher.message import Wire
    from holdfast.publisher.pipeline import Entry

T = TypeVar("T")
logger = logging.getLogger(__name__)

GRACE = 0.5  # seconds after its deadline at which a call ends at the latest: the pipeline may wait for another message
_DELIVER = 100  # futures settled in one callback; more would hold up the other callbacks of the loop
_HELPERS = 8  # threads for what Celery can only do blocking: asking for a result, announcing a chord


class PublishCancelled(NotAcknowledged):
    """The coroutine was cancelled while it waited for the broker's answer.

    It is the cause of the ``CancelledError``, which stays as asyncio made it: ``asyncio.timeout`` and task groups know
    their own cancellation by it. :func:`holdfast.aio.verdict` finds it. ``task_id`` is None for a canvas and for
    ``publish_many``; ``maybe_published`` is False when the publish had not begun, and then it never begins.
    """

    outcome = "cancelled"


class Call:
    """What one coroutine awaits: the outcomes of one or more messages.

    Args:
        build: makes the messages, in the thread; an exception that it yields becomes the outcome of that message, one
            that it raises ends the call.
        context: in which ``build`` runs.
        task_id: of the task, if it is one.
        seconds: until the verdict.

    Attributes:
        future: its result is the list of outcomes, in the order of the messages.
    """

    def __init__(
        self,
        build: Callable[[Templates], Iterable[Wire | Exception]],
        context: Context,
        task_id: str | None,
        seconds: float,
    ) -> None:
        self.build = build
        self.context = context
        self.task_id = task_id
        self.end = monotonic() + seconds
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Outcome]] = self.loop.create_future()
        self.mailbox: Mailbox
        self.outcomes: list[Outcome] = []
        self.left = 0
        self._taken = Lock()

    def take(self) -> bool:
        """Claim the call, for publishing or for giving it up; True for whoever is the first."""
        return self._taken.acquire(blocking=False)

    def expire(self) -> None:
        """End the call because its deadline has passed."""
        if not self.future.done():
            maybe = not self.take()
            text = "no answer within the deadline" if maybe else "its turn did not come within the deadline"
            self.future.set_exception(TimedOut(text, task_id=self.task_id, maybe_published=maybe))

    def cancelled(self) -> PublishCancelled:
        """Give the call up and return what is known about it."""
        if not self.future.done() or self.future.cancelled():
            maybe = not self.take()
        else:
            error = self.future.exception()
            maybe = error.maybe_published if isinstance(error, NotAcknowledged) else error is None
        return PublishCancelled("its coroutine was cancelled", task_id=self.task_id, maybe_published=maybe)


class Mailbox:
    """Brings settled calls to their event loop, many with one wake-up.

    Args:
        loop: the event loop.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._settled: deque[tuple[Call, Exception | None]] = deque()
        self._woken = False

    def put(self, call: Call, error: Exception | None) -> None:
        """Settle a call, from any thread; nothing happens when its loop is closed."""
        self._settled.append((call, error))
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
            call, error = self._settled.popleft()
            if call.future.done():  # cancelled, or expired
                continue
            if error is None:
                call.future.set_result(call.outcomes)
            else:
                call.future.set_exception(error)
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
        self._under_way: dict[int, Call] = {}  # by the index of the message
        self._mailboxes: WeakKeyDictionary[AbstractEventLoop, Mailbox] = WeakKeyDictionary()
        self._closed = False
        self._thread = Thread(target=self._run, name="holdfast publisher", daemon=True)
        self._thread.start()

    async def publish(self, call: Call) -> list[Outcome]:
        """Publish the messages of a call.

        Args:
            call: made by the running loop.

        Returns:
            How they ended, in their order.

        Raises:
            TimedOut: no answer came in time.
            CancelledError: the coroutine was cancelled; its cause is a :class:`PublishCancelled`.
            Exception: what the call's ``build`` raised.
        """
        call.mailbox = self._mailboxes.get(call.loop) or self._mailboxes.setdefault(call.loop, Mailbox(call.loop))
        timer = call.loop.call_later(max(0.0, call.end - monotonic()) + GRACE, call.expire)
        self._calls.put(call)
        try:
            return await call.future
        except asyncio.CancelledError as cancelled:
            raise cancelled from call.cancelled()
        finally:
            timer.cancel()

    def close(self) -> None:
        """Publish what was put before, then end the thread and close the connections; blocks until then."""
        self._calls.put(None)
        self._thread.join()
        self._publisher.close()

    # -- in the thread

    def _run(self) -> None:
        while not self._closed:
            try:
                self._serve()
            except Exception as error:
                logger.exception("the thread that publishes for coroutines failed and starts anew")
                for call in set(self._under_way.values()):
                    call.mailbox.put(call, Disconnected(repr(error), task_id=call.task_id, maybe_published=True))
                self._under_way.clear()

    def _serve(self) -> None:
        for outcome in Pipeline(self._publisher).stream(self._entries()):
            call = self._under_way.pop(outcome.index)
            call.outcomes.append(outcome)
            call.left -= 1
            if not call.left:
                call.outcomes.sort(key=lambda one: one.index)
                call.mailbox.put(call, None)

    def _entries(self) -> Iterator[Entry | None]:
        index = 0
        templates = Templates(self._app)
        while True:
            try:
                call = self._calls.get(block=not self._under_way)
            except Empty:
                yield None
                continue
            if call is None:
                self._closed = True
                return
            if not call.take():
                continue
            if not self._under_way:
                templates = Templates(self._app)  # what it knows of the app may have changed while nobody published
            wires = self._built(call, templates)
            call.left = len(wires)
            self._under_way.update((index + number, call) for number in range(len(wires)))
            index += len(wires)
            for wire in wires:
                yield wire, call.end - monotonic()

    def _built(self, call: Call, templates: Templates) -> list[Wire | Exception]:
        error: Exception | None = None
        wires: list[Wire | Exception] = []
        try:
            wires = call.context.run(lambda: list(call.build(templates)))
        except Exception as raised:  # noqa: BLE001 - belongs to the coroutine; the thread serves the others
            error = raised
        if not wires:
            call.mailbox.put(call, error)
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

"""Tasks that expired before a worker took them: dropped many at a time, each one stored for good."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import suppress
from datetime import timedelta
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.utils.log import get_logger
from kombu import Consumer as MessageConsumer

from holdfast.expiry import remaining
from holdfast.request import record
from holdfast.wakeup import WakeUp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kombu.message import Message

    from holdfast.request import Request

logger = get_logger(__name__)

WINDOW = 200  # messages that wait here for one confirmation of the store, which takes about as long for one as for all
WAIT = 0.05  # seconds for which the first one waits for others
ROW = 10  # expired messages of a queue, one after the other, that open its window
TAG = "expired-"  # consumer tag of a window, before the name of its queue
QUIET = 1.0  # seconds without an expired message that close it
TURN = 0.5  # seconds in one piece: counting the parts of chords is slow, and the connection's heartbeat must go out


class Expired(bootsteps.StartStopStep):
    """Settles the expired tasks that a worker receives, in batches.

    One by one each would wait for the disks of the result store, and with a prefetch count of 1 for the broker, too:
    60 a second. So a queue that hands out nothing else is read through a window: a second consumer with a prefetch
    count of its own (``basic.qos`` changes nothing for a consumer of a quorum queue that is there already). It runs
    no task: the first message that is not expired goes back to the queue, uncounted, and closes the window. What was
    settled of it is acknowledged together: a write to the socket for each message would be a third of the whole work.
    """

    def __init__(self, c: Any) -> None:
        super().__init__(c)
        self.handle: Callable[[Any], None]  #: what the consumer does with the message of a task
        self._c = c
        self._channel: Any = None
        self._together: _Together
        self._wake = WakeUp(c.timer, self._settle)
        self._forget()

    def _forget(self) -> None:
        self._batch: deque[Request] = deque()  # without an event loop the timer is a thread of its own
        self._recorded: deque[Request] = deque()
        self._rows: Counter[str] = Counter()
        self._open: dict[str, float] = {}  # when the last expired message of a queue with a window came

    def start(self, c: Any) -> None:
        """Begin with a fresh connection; what was received over the last one is handed out again."""
        self.stop(c)
        if c.connection.transport.driver_type == "amqp":
            self._channel = c.connection.channel()
            self._channel.basic_qos(0, WINDOW, False)
            self._together = _Together(self._channel, c)

    def stop(self, c: Any) -> None:
        """Settle nothing more; the connection is gone or going."""
        self._wake.cancel()
        for queue in tuple(self._open):
            with suppress(*c.connection_errors, *c.channel_errors):
                self.close_window(queue)  # of a worker that ends, and stays connected until its tasks have ended
        self._channel = None
        self._forget()

    shutdown = stop

    # -- settling

    def add(self, request: Request) -> None:
        """Take over an expired request, which is settled within a moment.

        Args:
            request: it is settled by nobody else.
        """
        self._batch.append(request)
        full = WINDOW if self._open else min(self._c.initial_prefetch_count or WINDOW, WINDOW)
        self._wake.within(0 if len(self._batch) >= full else WAIT)

    def _settle(self) -> None:
        batch = [self._batch.popleft() for _ in range(len(self._batch))]
        self._recorded.extend(record(batch))
        until = monotonic() + TURN
        while self._recorded and monotonic() < until:
            request = self._recorded.popleft()
            try:
                request.settle_revoked("expired", False, None, True)
            except (*self._c.connection_errors, *self._c.channel_errors):
                raise
            except Exception as error:  # noqa: BLE001 - as of any message: it must not end the worker
                self._c.on_decode_error(request.message, error)
        if self._recorded:
            self._wake.within(0)

    # -- the window

    def seen(self, queue: str, expired: bool) -> None:
        """Note what a message was, and open the window of a queue that hands out nothing but expired ones.

        Args:
            queue: where it came from.
            expired: it was passed to :meth:`add`, and a window would know it as :func:`past`.
        """
        if not expired:
            self._rows.pop(queue, None)
            return
        self._rows[queue] += 1
        if queue in self._open:
            self._open[queue] = monotonic()
        elif self._rows[queue] >= ROW and self._channel is not None:
            self._widen(queue)

    def _widen(self, name: str) -> None:
        found = [queue for queue in self._c.task_consumer.queues if queue.name == name]
        if not found:  # cancelled by remote control
            return
        consumer = MessageConsumer(
            self._channel,
            accept=self._c.task_consumer.accept,
            on_message=self._drained,
            on_decode_error=self._c.on_decode_error,
            auto_declare=False,
        )
        found[0](self._channel).consume(f"{TAG}{name}", consumer._receive_callback, nowait=True)
        self._open[name] = monotonic()
        logger.info("Queue %s hands out expired tasks: up to %s are dropped at a time", name, WINDOW)
        self._c.timer.call_after(QUIET, self._look, (name,))

    def _look(self, queue: str) -> None:
        if queue not in self._open:
            return
        if monotonic() - self._open[queue] >= QUIET:
            self.close_window(queue)
        else:
            self._c.timer.call_after(QUIET, self._look, (queue,))

    def close_window(self, queue: str) -> None:
        """Close the window of a queue, if it is open.

        Args:
            queue: its name.
        """
        if self._open.pop(queue, None) is not None:
            self._rows.pop(queue, None)
            self._channel.basic_cancel(f"{TAG}{queue}", nowait=True)

    def _drained(self, message: Message) -> None:
        one: Any = message
        # of the tag: what was on its way still comes when the window is closed, and while a worker ends
        one.queue = message.delivery_info["consumer_tag"].removeprefix(TAG)
        one.channel = self._together
        self._together.given(one.delivery_tag)
        if past(message.headers):
            self.handle(message)
        else:
            self.close_window(one.queue)
            self._c.give_back(message)


class _Together:
    """The channel of the windows for the messages that came through it: acknowledges many with one frame.

    Args:
        channel: what it stands for.
        c: the consumer, whose timer runs what is due once everything is acknowledged that is due now.
    """

    def __init__(self, channel: Any, c: Any) -> None:
        self._channel = channel
        self._c = c
        self._lock = Lock()  # without an event loop the timer is a thread of its own
        self._unsettled: set[int] = set()  # tags; what stands in none of the two is settled
        self._settled: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def given(self, tag: int) -> None:
        """Note a message that the broker handed out.

        Args:
            tag: its delivery tag.
        """
        with self._lock:
            self._unsettled.add(tag)

    def basic_ack(self, tag: int, multiple: bool = False) -> None:  # noqa: ARG002 - kombu's parameters; never True here
        """Acknowledge a message with the others that are due."""
        with self._lock:
            first = not self._settled
            self._settled.add(tag)
            self._unsettled.discard(tag)
        if first:
            self._c.timer.call_after(0, self._acknowledge)

    def basic_reject(self, tag: int, requeue: bool) -> None:
        """Reject a message at once."""
        self._channel.basic_reject(tag, requeue=requeue)
        self._close(tag)

    def send_method(self, method: Any, layout: str, values: tuple[Any, ...]) -> None:
        """Send a ``basic.nack`` at once."""
        self._channel.send_method(method, layout, values)
        self._close(values[0])

    def _close(self, tag: int) -> None:
        """Forget a message once the broker was told of it: until then no later one may be acknowledged with it."""
        with self._lock:
            self._unsettled.discard(tag)

    def _acknowledge(self) -> None:
        """Acknowledge all that came before the oldest message that is still open, and what is left one by one."""
        with self._lock:
            settled, self._settled = self._settled, set()
            oldest = min(self._unsettled, default=max(settled) + 1)
        before = {tag for tag in settled if tag < oldest}
        with suppress(*self._c.connection_errors, *self._c.channel_errors):  # then they are handed out again
            if before:
                self._channel.basic_ack(max(before), multiple=True)
            for tag in settled - before:
                self._channel.basic_ack(tag)


def past(headers: Mapping[str, Any]) -> bool:
    """Tell whether a task message says that its time is over.

    Args:
        headers: of the message.
    """
    left = remaining(headers.get("expires"))
    return left is not None and left < timedelta(0)

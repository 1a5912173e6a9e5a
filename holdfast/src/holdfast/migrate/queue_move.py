"""One run from queue to queue: consume, publish with confirms, acknowledge what is confirmed, in this order.

The state is in the broker alone. A run that is killed loses nothing: what it had not acknowledged returns to the old
queue. That part of it which the new queue had confirmed runs twice; it is at most what was in flight.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from amqp import spec

from holdfast.migrate.carry import NAMED, WINDOW, Result, in_time
from holdfast.publisher import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery
    from kombu import Connection

    from holdfast.migrate.queue_plan import Plan
    from holdfast.publisher import Publisher

PREFETCH = 2 * WINDOW  # messages that the old queue hands out: while a window is confirmed, the next one arrives
LOOK = 0.2  # seconds without a message until the queue is asked for its length
PATIENCE = 5.0  # seconds without a message until the run ends, although the queue has some
# Of these the broker would take the message for another one's: for more queues, from another login, delivered before
BROKERS_HEADERS = ("CC", "x-delivery-count", "x-acquired-count")
BROKERS_PROPERTIES = ("application_headers", "content_type", "content_encoding", "user_id", "cluster_id")


class Source:
    """A consumer of the old queue, beside those of the workers.

    Args:
        connection: to the broker.
        queue: its name.
    """

    def __init__(self, connection: Connection, queue: str) -> None:
        self._connection, self._queue = connection, queue
        self._channel: Any = connection.channel()
        self._channel.auto_decode = False  # bodies stay as they are
        self._arrived: deque[Any] = deque()
        self._most = waiting(self._channel, queue)[0]
        self._channel.basic_qos(0, PREFETCH, False)
        self._tag = self._channel.basic_consume(queue, callback=self._arrived.append)

    def __iter__(self) -> Iterator[Any]:
        """Yield as many messages as waited at the beginning: a busy publisher must not keep the next queue waiting."""
        for _ in range(self._most):
            if not self._arrive():
                return
            yield self._arrived.popleft()

    def _arrive(self) -> bool:
        """Wait for a message; tell whether there is one, or the queue has none, or gives none."""
        end = monotonic() + PATIENCE
        while not self._arrived:
            try:
                self._connection.drain_events(timeout=LOOK)
            except TimeoutError:
                empty = waiting(self._channel, self._queue)[0] == 0  # takes in a message that has just come
                if not self._arrived and (empty or monotonic() > end):
                    return False
        return True

    def done(self, raw: Any) -> None:
        """Take a message out of the queue."""
        self._channel.basic_ack(raw.delivery_tag)

    def close(self) -> None:
        """Give back what is left, in order; by ``basic.nack``, which counts towards no delivery limit."""
        if self._channel.is_open:
            self._channel.basic_cancel(self._tag)
            self._channel.send_method(spec.Basic.Nack, "Lbb", (0, True, True))  # 0 and multiple: all that are left
            self._channel.close()


class QueueMover:
    """Moves what waits in queues.

    Args:
        app: the application.
        connection: to its broker, to consume.
        publisher: to the same broker.
        progress: called with the result so far, after each message that has moved.
    """

    def __init__(
        self, app: Celery[Any], connection: Connection, publisher: Publisher, progress: Callable[[Result], None]
    ) -> None:
        self._app, self._connection, self._publisher, self._progress = app, connection, publisher, progress
        self.result = Result()

    def run(self, plan: Plan) -> None:
        """Move one queue; what cannot be moved goes back to where it was.

        Args:
            plan: what was found of it.

        Raises:
            amqp.exceptions.AMQPError: the broker is away, or refuses the login; what was not confirmed stays.
        """
        if plan.declares:
            plan.new(self._connection.default_channel).declare()
        with closing(Source(self._connection, plan.old)) as source:
            self._carry(plan, source)

    def _carry(self, plan: Plan, source: Source) -> None:
        flights: dict[int, Any] = {}
        numbers = count()

        def messages() -> Iterator[Message]:
            for raw in source:
                if self.result.stopped:
                    return
                try:
                    message = self._message(plan, raw)
                except ValueError as error:
                    self._failed(plan, raw, error)
                    continue
                flights[next(numbers)] = raw
                yield message

        for outcome in self._publisher.publish_all(messages(), window=WINDOW):
            raw = flights.pop(outcome.index)
            if outcome.error is None:
                source.done(raw)
                self.result.moved[plan.old] += 1
                self.result.resumed += bool(raw.delivery_info["redelivered"])
                self._progress(self.result)
            else:
                self._failed(plan, raw, outcome.error)

    def _message(self, plan: Plan, raw: Any) -> Message:
        made = copy(raw, *plan.place)
        return in_time(self._app, plan.new, made) if plan.place[0] else made  # a delay leads to an exchange

    def _failed(self, plan: Plan, raw: Any, error: Exception) -> None:
        """Leave a message in the old queue, where no consumer gets it before this run ends."""
        headers = raw.properties.get("application_headers") or {}
        self.result.failed(plan.old, str(headers.get("id") or raw.properties.get("correlation_id") or "-"), error)
        if self.result.refused >= NAMED:
            self.result.stopped = self.result.stopped or f"{NAMED} messages are refused"


def copy(raw: Any, exchange: str, key: str) -> Message:
    """Return a message as it came, for another place; its expiration begins anew.

    Args:
        raw: as py-amqp received it.
        exchange: where it goes.
        key: its routing key there.
    """
    properties = raw.properties
    headers = properties.get("application_headers") or {}
    return Message(
        exchange,
        key,
        raw.body,
        properties.get("content_type"),
        properties.get("content_encoding"),
        {name: value for name, value in headers.items() if name not in BROKERS_HEADERS},
        {name: value for name, value in properties.items() if name not in BROKERS_PROPERTIES},
    )


def waiting(channel: Any, queue: str) -> tuple[int, int]:
    """Return how many messages wait in a queue, and how many consumers it has."""
    found = channel.queue_declare(queue, passive=True)
    return found.message_count, found.consumer_count

"""One run: claim on Redis, publish with confirms, drop what is confirmed, until nothing is left to claim.

A run that is killed loses nothing: what it had claimed lies on Redis, and the next run publishes it first. That part
of it which the new broker had confirmed already runs twice; it is at most what was in flight, and it is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from holdfast.migrate.carry import WINDOW, Result, publisher
from holdfast.migrate.message import Stored, UnreadableError
from holdfast.migrate.old import LEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.migrate.message import Targets
    from holdfast.migrate.old import Held, OldBroker
    from holdfast.publisher import Message, Outcome

DEADLINE = LEASE / 2  # seconds for one message; below the lease, so that no other run begins while this one waits
BATCH = 100  # messages claimed or dropped in one round trip
HELD_BY_WORKERS = "(unacknowledged)"


@dataclass
class Flight:
    """A claimed message on its way, to more than one queue if its worker would have given it back to several."""

    held: Held
    left: int
    error: Exception | None = None


class Mover:
    """Moves tasks from one broker to the other.

    Args:
        old: where they are.
        targets: where they go.
        progress: called with the result so far, after each batch.
    """

    def __init__(self, old: OldBroker, targets: Targets, progress: Callable[[Result], None]) -> None:
        self._old, self._targets, self._progress = old, targets, progress
        self._publisher = publisher(targets.app, targets.app.connection_for_write())
        self._bindings = old.bindings()
        self._lock: Any = None
        self._extended = monotonic()
        self.result = Result()

    def run(self, *, workers_stopped: bool) -> None:
        """Move everything that no worker holds.

        Args:
            workers_stopped: also what workers held: none of them runs any more.

        Raises:
            redis.exceptions.RedisError: the old broker is away, or another run has taken over; what was claimed stays.
        """
        with self._old.alone() as self._lock:
            held = self._old.held()
            self.result.resumed = len(held)
            self._carry(iter(held))
            while not self.result.stopped and self._carry(self._waiting()):
                pass  # what came meanwhile
            if workers_stopped and not self.result.stopped:
                self._carry(self._taken())

    # -- claiming

    def _waiting(self) -> Iterator[Held]:
        for spot in self._old.waiting():
            if spot.queue in self._targets.skipped or self._targets.queue(spot.queue) is None:
                continue
            for _ in range(0, spot.length, BATCH):
                yield from self._old.claim(spot, BATCH)

    def _taken(self) -> Iterator[Held]:
        tags: list[str] = []
        for tag, raw in self._old.unacked():
            stored = None
            try:
                stored = Stored.read(raw, held=True)
                queues = self._targets.queues(stored.queues(self._bindings))
            except UnreadableError as error:
                self._refuse("unacked", stored, str(error))
                continue
            if not queues:
                continue
            tags.append(tag)
            if len(tags) == BATCH:
                yield from self._old.take(tags)
                tags.clear()
        yield from self._old.take(tags)

    # -- publishing

    def _carry(self, claimed: Iterator[Held]) -> int:
        """Publish what is claimed, drop what is confirmed; return how many were claimed, 0 to end the run."""
        flights: dict[int, Flight] = {}
        done: list[Held] = []
        claims, numbers = count(), count()

        def messages() -> Iterator[Message]:
            for held in claimed:
                next(claims)
                ready = self._messages(held)
                flight = Flight(held, len(ready))
                for message in ready:
                    flights[next(numbers)] = flight
                    yield message
                if self.result.stopped:
                    return

        try:
            for outcome in self._publisher.publish_all(messages(), window=WINDOW, deadline=DEADLINE):
                self._stay_alone()
                flight = flights.pop(outcome.index)
                if self._ended(flight, outcome):
                    done.append(flight.held)
                if len(done) >= BATCH:
                    self._settle(done)
        finally:
            self._settle(done)
        return 0 if self.result.stopped else next(claims)

    def _messages(self, held: Held) -> list[Message]:
        """Return what to publish for a claimed message; nothing when it cannot be read."""
        stored = None
        try:
            stored = Stored.read(held.raw, held=held.queue is None)
            names = stored.queues(self._bindings) if held.queue is None else [held.queue]
            queues = self._targets.queues(names)
            made = [self._targets.message(stored, queue) for queue in queues]
        except UnreadableError as error:
            self._refuse(held.key, stored, str(error))
            return []
        described: list[Any] = queues
        for queue, message in zip(described, made, strict=True):
            if not queue.no_declare:
                self._publisher.topology[message.exchange, message.routing_key] = [queue]
        return made

    def _ended(self, flight: Flight, outcome: Outcome) -> bool:
        """Note how a message ended; tell whether the new broker has all that a claimed one became."""
        flight.left -= 1
        flight.error = flight.error or outcome.error
        if flight.left:
            return False
        if flight.error is None:
            return True
        stored = Stored.read(flight.held.raw, held=flight.held.queue is None)
        self.result.failed(flight.held.key, stored.task_id, flight.error)
        return False

    def _refuse(self, key: str, stored: Stored | None, reason: str) -> None:
        self.result.refuse(key, stored.task_id if stored else "-", reason)

    def _settle(self, done: list[Held]) -> None:
        self._old.settle(done)
        for held in done:
            self.result.moved[held.queue or HELD_BY_WORKERS] += 1
        done.clear()
        self._progress(self.result)

    def _stay_alone(self) -> None:
        if monotonic() - self._extended > LEASE / 4:
            self._lock.reacquire()  # raises when another run has it
            self._extended = monotonic()

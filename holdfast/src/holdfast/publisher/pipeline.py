"""Many messages at once: a window of them is under way, each with an outcome of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import count, islice
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeAlias

from holdfast.metrics import numbers
from holdfast.publisher.attempt import Attempts
from holdfast.publisher.errors import NotAcknowledged
from holdfast.publisher.link import Pending

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast.publisher.attempt import Cluster
    from holdfast.publisher.link import Link
    from holdfast.publisher.message import Wire

    # a message, or why there is none, and the seconds until its verdict
    Entry: TypeAlias = tuple[Wire | Exception, float | None]

WINDOW = 1000  # messages
_BATCH = 64  # messages written at once


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one message ended.

    Attributes:
        index: its place in the input, from 0.
        task_id: the id of the task; None for a signature from which no message could be built.
        error: None when it was acknowledged or stored, else what happened (:class:`NotAcknowledged`, or the error of
            building the message).
        stored: True when the fallback has it.
    """

    index: int
    task_id: str | None
    error: Exception | None = None
    stored: bool = False

    @property
    def acknowledged(self) -> bool:
        """True when a broker acknowledged this message."""
        return self.error is None and not self.stored


class _Flight(Pending):
    """A message of a :class:`Pipeline` on its way: its attempts, and when the next one is due."""

    __slots__ = ("attempts", "due", "index", "link")

    def __init__(self, index: int, attempts: Attempts) -> None:
        super().__init__(attempts.wire)
        self.index = index
        self.attempts = attempts
        self.due = 0.0
        self.link: Link | None = None

    def prepare(self, pause: float) -> None:
        """Get ready for another attempt after ``pause`` seconds."""
        self.due = monotonic() + pause
        self.done, self.error = False, None


class Pipeline:
    """Publishes a stream of messages with at most ``window`` of them unsettled.

    Args:
        cluster: where to publish; other threads may publish there meanwhile.
        window: how many messages may wait for their answers or for another attempt.
        deadline: seconds for each message from its first attempt; None for the policy's.
    """

    def __init__(self, cluster: Cluster, window: int = WINDOW, deadline: float | None = None) -> None:
        if window < 1:
            raise ValueError(f"window is {window}; allowed is 1 or more, {WINDOW} is the default")
        self._cluster = cluster
        self._window = window
        self._deadline = deadline
        self._more = True
        self._idle = False  # the source had nothing when it was last asked
        self._count = count()
        self._under_way: deque[_Flight] = deque()
        self._again: list[_Flight] = []

    def run(self, wires: Iterable[Wire | Exception]) -> Iterator[Outcome]:
        """Publish messages; outcomes come as they are known, about in the order of the input.

        Args:
            wires: the messages; an exception stands for one that could not be built and becomes its outcome.
        """
        return self.stream((wire, self._deadline) for wire in wires)

    def stream(self, entries: Iterable[Entry | None]) -> Iterator[Outcome]:
        """Publish messages that come one by one while others are under way, each with a deadline of its own.

        Args:
            entries: messages with the seconds until their verdict (None for the policy's). None instead of an entry
                means that there is nothing more to send at the moment; with nothing under way, the iterator has to wait
                for an entry itself.
        """
        source = iter(entries)
        here = self._cluster.nodes.depth
        while self._more or self._under_way or self._again:
            outer = here.value
            try:  # as for a single message; never around a yield: what the caller publishes there interrupts nothing
                here.value = outer + 1
                outcomes = self._round(source)
            finally:
                here.value = outer
            yield from outcomes

    def _round(self, source: Iterator[Entry | None]) -> list[Outcome]:
        """Send what there is room for, wait when there is none; return what has ended."""
        outcomes: list[Outcome] = []
        batch = self._due()
        room = min(_BATCH, self._window - len(batch) - len(self._under_way) - len(self._again))
        for wire, deadline in self._take(source, room):
            index = next(self._count)
            refused = self._cluster.refusal(wire)
            if refused is not None:
                outcomes.append(self._verdict(index, wire, refused))
            elif not isinstance(wire, Exception):
                batch.append(_Flight(index, Attempts(self._cluster, wire, deadline)))
        if batch:
            self._submit(batch)
        if self._idle or not self._more or len(self._under_way) + len(self._again) >= self._window:
            self._wait()
        while self._under_way and self._under_way[0].done:
            outcome = self._conclude(self._under_way.popleft())
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def _take(self, source: Iterator[Entry | None], room: int) -> list[Entry]:
        """Return what there is to send and room for; note whether there may be more."""
        fresh: list[Entry] = []
        if self._more and room > 0:
            for entry in islice(source, room):
                if entry is None:
                    break
                fresh.append(entry)
            else:
                self._more = len(fresh) == room
            self._idle = self._more and len(fresh) < room
        return fresh

    def _due(self) -> list[_Flight]:
        now = monotonic()
        due = [flight for flight in self._again if flight.due <= now]
        if due:
            self._again = [flight for flight in self._again if flight.due > now]
        return due

    def _submit(self, batch: list[_Flight]) -> None:
        """Hand messages to the links they are meant for; what cannot be sent is settled with the reason."""
        shared: dict[int, list[_Flight]] = {}
        for flight in batch:
            flight.attempts.begin()
            if not flight.attempts.alone:
                shared.setdefault(flight.attempts.node, []).append(flight)
        for node, part in shared.items():
            limits = min(flight.attempts.limits for flight in part)
            try:
                link = self._cluster.nodes.link(node, limits)
            except NotAcknowledged as error:
                for flight in part:
                    flight.settle(error)
            else:
                for flight in part:
                    flight.link = link
                link.submit(part, limits.until)
        for flight in batch:
            if flight.attempts.alone:
                self._publish_alone(flight)
        self._under_way.extend(batch)

    def _publish_alone(self, flight: _Flight) -> None:
        flight.attempts.begin()
        try:
            self._cluster.nodes.publish_alone(flight.attempts.node, flight.wire, flight.attempts.limits)
        except NotAcknowledged as error:
            flight.settle(error)
        else:
            flight.settle(None)

    def _wait(self) -> None:
        """Wait for the oldest answer, or for the next attempt when no answer is awaited."""
        if self._under_way:
            head = self._under_way[0]
            if head.link is not None:
                head.link.wait(head, head.attempts.limits)
        elif self._again:
            sleep(max(0.0, min(flight.due for flight in self._again) - monotonic()))

    def _conclude(self, flight: _Flight) -> Outcome | None:
        """Return the outcome of a settled message, or None when it gets another attempt."""
        if flight.error is None:
            return self._verdict(flight.index, flight.wire, None)
        pause = flight.attempts.failed(flight.error, flight.failed_at)
        if pause is None:
            return self._verdict(flight.index, flight.wire, flight.attempts.failure)
        flight.prepare(pause)
        self._again.append(flight)
        return None

    def _verdict(self, index: int, wire: Wire | Exception, error: Exception | None) -> Outcome:
        if isinstance(wire, Exception):
            numbers.published("refused")
            return Outcome(index, getattr(wire, "task_id", None), error)
        if not isinstance(error, NotAcknowledged):
            numbers.published("acknowledged")
            self._cluster.acknowledged(wire)
            return Outcome(index, wire.task_id)
        stored = self._cluster.store(wire, error)
        numbers.published("outbox" if stored else error.outcome)
        return Outcome(index, wire.task_id, None if stored else error, stored)

"""Many messages at once: a window of them is under way, each with an outcome of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from time import monotonic, sleep
from typing import TYPE_CHECKING

from holdfast.metrics import numbers
from holdfast.publisher.errors import NotAcknowledged
from holdfast.publisher.link import Pending, Suspected

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast.publisher.link import Link
    from holdfast.publisher.message import Wire
    from holdfast.publisher.policy import Limits
    from holdfast.publisher.publisher import Publisher

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
    """A message of a bulk publish."""

    __slots__ = ("attempts", "declared", "doubted", "due", "end", "index", "limits", "link", "maybe", "node", "turn")

    def __init__(self, index: int, wire: Wire, end: float) -> None:
        super().__init__(wire)
        self.index = index
        self.end = end
        self.attempts = 0
        self.due = 0.0
        self.turn = 0
        self.node = 0
        self.maybe = False
        self.doubted = False
        self.declared = False
        self.link: Link | None = None
        self.limits: Limits

    def prepare(self, pause: float, turn: int) -> None:
        """Get ready for another attempt after ``pause`` seconds."""
        self.attempts += 1
        self.due = monotonic() + pause
        self.turn = turn
        self.done, self.error = False, None


class Pipeline:
    """Publishes a stream of messages with at most ``window`` of them unsettled.

    Args:
        publisher: whose links, policy and fallback are used; other threads may publish through it meanwhile.
        window: how many messages may wait for their answers or for another attempt.
        deadline: seconds for each message from its first attempt; None for the policy's.
    """

    def __init__(self, publisher: Publisher, window: int = WINDOW, deadline: float | None = None) -> None:
        if window < 1:
            raise ValueError(f"window is {window}; allowed is 1 or more, {WINDOW} is the default")
        self._publisher = publisher
        self._policy = publisher.policy
        self._window = window
        self._deadline = publisher.policy.deadline if deadline is None else deadline
        self._under_way: deque[_Flight] = deque()
        self._again: list[_Flight] = []

    def run(self, wires: Iterable[Wire | Exception]) -> Iterator[Outcome]:
        """Publish messages; outcomes come as they are known, about in the order of the input.

        Args:
            wires: the messages; an exception stands for one that could not be built and becomes its outcome.
        """
        source = enumerate(wires)
        more = True
        while more or self._under_way or self._again:
            batch = self._due()
            room = min(_BATCH, self._window - len(batch) - len(self._under_way) - len(self._again))
            if more and room > 0:
                fresh = list(islice(source, room))
                more = len(fresh) == room
                for index, wire in fresh:
                    refused = self._publisher.refusal(wire)
                    if refused is not None:
                        numbers.published("refused")
                        yield Outcome(index, getattr(wire, "task_id", None), refused)
                    elif not isinstance(wire, Exception):
                        batch.append(_Flight(index, wire, monotonic() + self._deadline))
            if batch:
                self._submit(batch)
            if not more or len(self._under_way) + len(self._again) >= self._window:
                self._wait()
            while self._under_way and self._under_way[0].done:
                yield from self._conclude(self._under_way.popleft())

    def _due(self) -> list[_Flight]:
        now = monotonic()
        due = [flight for flight in self._again if flight.due <= now]
        if due:
            self._again = [flight for flight in self._again if flight.due > now]
        return due

    def _submit(self, batch: list[_Flight]) -> None:
        """Hand messages to the links they are meant for; what cannot be sent is settled with the reason."""
        nodes = self._publisher.nodes
        for turn in sorted({flight.turn for flight in batch}):
            part = [flight for flight in batch if flight.turn == turn]
            node, link = nodes.pick(turn), None
            try:
                link = nodes.link(node, self._policy.limits(min(flight.end for flight in part)))
            except NotAcknowledged as error:
                for flight in part:
                    flight.settle(error)
            for flight in part:
                flight.node, flight.link = node, link
                flight.limits = self._policy.limits(flight.end)
            if link is not None:
                link.submit(part)
            self._under_way.extend(part)

    def _wait(self) -> None:
        """Wait for the oldest answer, or for the next attempt when no answer is awaited."""
        if self._under_way:
            head = self._under_way[0]
            if head.link is not None:
                head.link.wait(head, head.limits)
        elif self._again:
            sleep(max(0.0, min(flight.due for flight in self._again) - monotonic()))

    def _conclude(self, flight: _Flight) -> Iterator[Outcome]:
        """Yield the outcome of a settled message, unless it gets another attempt."""
        error = flight.error
        if isinstance(error, Suspected):
            try:
                self._publisher.nodes.publish_alone(flight.node, flight.wire, self._policy.limits(flight.end))
                error = None
            except NotAcknowledged as alone:
                flight.maybe = flight.maybe or alone.retryable  # else it was this message: not published
                error = alone
        if error is None:
            numbers.published("acknowledged")
            yield Outcome(flight.index, flight.wire.task_id)
            return
        turn = self._publisher.next_turn(error, flight.node, flight.turn)
        again = error.retryable
        if not again and not flight.doubted:  # as for a single message: another node decides
            again = flight.doubted = True
        elif not again and not flight.declared:
            again = flight.declared = self._publisher.declare(error, flight.node, flight.wire, flight.limits)
        flight.maybe = flight.maybe or error.maybe_published
        pause = self._policy.pause(flight.attempts)
        if again and monotonic() + pause < flight.end - self._policy.reserve(self._deadline):
            flight.prepare(pause, turn)
            self._again.append(flight)
            return
        final = error.about(flight.wire.task_id, maybe_published=flight.maybe)
        stored = self._publisher.store(flight.wire, final)
        numbers.published("outbox" if stored else final.outcome)
        yield Outcome(flight.index, flight.wire.task_id, None if stored else final, stored)

"""What is still in the old broker: counted before a run, after it, and instead of one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.migrate.message import Stored, UnreadableError

if TYPE_CHECKING:
    from holdfast.migrate.message import Targets
    from holdfast.migrate.old import OldBroker


@dataclass
class Left:
    """What is there.

    Attributes:
        waiting: messages by queue.
        homeless: those of them whose queue the new application has not.
        unacked: what workers hold, by queue; "?" when its queue is unknown.
        eta: how many of these wait for their time.
        held: what an earlier run has claimed and not settled.
        workers: addresses of the old workers; None when the login may not ask.
    """

    waiting: Counter[str] = field(default_factory=Counter)
    homeless: list[str] = field(default_factory=list)
    unacked: Counter[str] = field(default_factory=Counter)
    eta: int = 0
    held: int = 0
    workers: list[str] | None = None

    @property
    def total(self) -> int:
        """All tasks that are there."""
        return self.waiting.total() + self.unacked.total() + self.held

    def summary(self) -> dict[str, Any]:
        """Return it as values of JSON."""
        return {**vars(self), "waiting": dict(self.waiting), "unacked": dict(self.unacked), "total": self.total}


def count(old: OldBroker, targets: Targets) -> Left:
    """Count without touching anything; the queues that are skipped do not count."""
    left = Left(held=len(old.held()), workers=old.workers())
    for spot in old.waiting():
        if spot.queue not in targets.skipped:
            left.waiting[spot.queue] += spot.length
    left.homeless = sorted(queue for queue in left.waiting if targets.queue(queue) is None)
    bindings = old.bindings()
    for _, raw in old.unacked():
        try:
            stored = Stored.read(raw, held=True)
            queues = stored.queues(bindings)
        except UnreadableError:
            left.unacked["?"] += 1
            continue
        if not targets.skipped.issuperset(queues):
            left.unacked[",".join(queues)] += 1
            left.eta += stored.eta is not None
    return left

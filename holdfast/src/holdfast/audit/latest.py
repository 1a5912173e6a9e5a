"""What the auditor of this process has found last, for the page of its metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What one look has found.

    Attributes:
        at: when, in seconds since the epoch.
        unaccounted: how many tasks are.
        undecided: how many may be among the dead letters, which this login may not read.
        oldest: seconds since the oldest minute of which a task has not ended; 0 when there is none.
    """

    at: float
    unaccounted: int
    undecided: int
    oldest: float


class Latest:
    """What this process has found last.

    Attributes:
        verdict: None as long as it has not looked.
    """

    verdict: Verdict | None = None

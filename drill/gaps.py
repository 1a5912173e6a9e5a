"""How long a stream stood still after a fault."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drill.history import Bound, Fault, History


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest silence of a stream.

    Attributes:
        seconds: its length.
        ended: False when the stream was still silent at the end of the window: then it is a lower limit.
    """

    seconds: float
    ended: bool


def longest(times: Sequence[float], start: float, end: float) -> Gap:
    """Return the longest time without an event inside a window.

    Args:
        times: Unix times of the events, ascending.
        start: of the window; silence before it does not count.
        end: of the window; a silence that began in it counts until the next event, also after it.
    """
    first, last = bisect_left(times, start), bisect_right(times, end)
    inside = [start, *times[first:last]]
    following = times[last] if last < len(times) else None
    inside.append(end if following is None else following)
    seconds, last_step = max((later - earlier, step) for step, (earlier, later) in enumerate(pairwise(inside)))
    return Gap(seconds, ended=following is not None or last_step < len(inside) - 2)


def streams(history: History) -> dict[str, list[float]]:
    """Return the times of acknowledged publishes, finished executions and stored results, ascending."""
    acknowledged = (outcome.at for outcome in history.outcomes.values() if outcome.result == "acknowledged")
    finished = (run.end for runs in history.runs.values() for run in runs if run.end is not None)
    stored = (at for times in history.stored.values() for at in times)
    return {"publish": sorted(acknowledged), "work": sorted(finished), "results": sorted(stored)}


def rerun(history: History, fault: Fault) -> Gap:
    """Return how long the slowest task whose execution the fault cut waited for its next one."""
    slowest = Gap(0.0, ended=True)
    for runs in history.runs.values():
        for run in runs:
            again = min((other.start for other in runs if other.start > run.start), default=None)
            cut_here = run.end is None and run.start <= fault.applied_at and (again is None or again > fault.applied_at)
            if cut_here:
                until = fault.settled_at if again is None else again
                slowest = max(slowest, Gap(until - fault.applied_at, again is not None), key=lambda gap: gap.seconds)
    return slowest


def measure(history: History, flows: dict[str, list[float]], fault: Fault, bound: Bound) -> Gap:
    """Return the gap that a bound speaks about.

    Args:
        history: of the run.
        flows: what :func:`streams` returned for it.
        fault: whose.
        bound: its stream, and whether it counts from the fault or from its healing on.
    """
    if bound.stream == "rerun":
        return rerun(history, fault)
    start = fault.applied_at if bound.since == "apply" else fault.healed_at
    return longest(flows[bound.stream], start, max(start, fault.settled_at))

"""How long a stream stood still after a fault."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drill.faults.record import Bound, Fault
    from drill.judge.history import History


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


@dataclass(frozen=True)
class Flows:
    """The events of a run.

    Attributes:
        times: of acknowledged publishes, finished executions and stored results, each ascending.
        cut: start of each execution that has no end, and of the task's next one (infinity for none).
    """

    times: dict[str, list[float]]
    cut: list[tuple[float, float]]


def streams(history: History) -> Flows:
    """Return the events of a run."""
    acknowledged = (outcome.at for outcome in history.outcomes.values() if outcome.result == "acknowledged")
    finished = (run.end for runs in history.runs.values() for run in runs if run.end is not None)
    stored = (at for times in history.stored.values() for at in times)
    cut = [
        (run.start, min((other.start for other in runs if other.start > run.start), default=float("inf")))
        for task_id, runs in history.runs.items()
        if task_id in history.attempts and not history.attempts[task_id].poison
        for run in runs
        if run.end is None
    ]
    return Flows({"publish": sorted(acknowledged), "work": sorted(finished), "results": sorted(stored)}, cut)


def rerun(cut: Sequence[tuple[float, float]], fault: Fault) -> Gap:
    """Return how long the slowest task whose execution the fault cut waited for its next one.

    Args:
        cut: start of each execution that has no end, and of the task's next one (infinity for none).
        fault: whose.
    """
    waits = [(min(again, fault.settled_at), again) for start, again in cut if start <= fault.applied_at < again]
    until, again = max(waits, default=(fault.applied_at, 0.0))
    return Gap(until - fault.applied_at, again <= until)


def measure(flows: Flows, fault: Fault, bound: Bound) -> Gap:
    """Return the gap that a bound speaks about.

    Args:
        flows: what :func:`streams` returned.
        fault: whose.
        bound: its stream, and whether it counts from the fault or from its healing on.
    """
    if bound.stream == "rerun":
        return rerun(flows.cut, fault)
    start = fault.applied_at if bound.since == "apply" else fault.healed_at
    return longest(flows.times[bound.stream], start, max(start, fault.settled_at))

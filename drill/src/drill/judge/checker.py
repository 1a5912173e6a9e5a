"""Judges a history: Jepsen's total-queue checker, extended to tasks, results and effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drill.judge import gaps
from drill.judge.history import ACKNOWLEDGED
from drill.judge.intervals import LONG, Intervals
from holdfast.audit import marks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drill.faults.record import Bound, Fault
    from drill.judge.gaps import Gap
from drill.judge.history import History, Run

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"
EXIT = {PASS: 0, FAIL: 1, INCONCLUSIVE: 2}
SILENCE_STARTS = 1.0  # seconds after a fault was proven until a confirm counts as false: one may be on its way
SLOW = 2.0  # times its bound that a recovery may take on a busy machine before it fails the run


@dataclass(frozen=True)
class Counts:
    """Ids of tasks by what became of them; see docs/how-to/drill.md for the words."""

    attempted: frozenset[str]
    acknowledged: frozenset[str]
    unknown: frozenset[str]
    executed: frozenset[str]
    recovered: frozenset[str]
    duplicated: frozenset[str]
    extra: dict[str, int]
    lost: frozenset[str]
    unexpected: frozenset[str]
    result_lost: frozenset[str]
    effect_duplicated: frozenset[str]
    effect_lost: frozenset[str]
    dead_lettered: frozenset[str]
    innocent_dead: frozenset[str]
    poison_escaped: frozenset[str]
    unrouted: frozenset[str]
    false_ack: frozenset[str]

    def sizes(self) -> dict[str, int]:
        """Return how many there are of each; for ``extra`` the number of executions."""
        sizes = {name: len(getattr(self, name)) for name in self.__dataclass_fields__ if name != "extra"}
        return sizes | {"extra": sum(self.extra.values())}


@dataclass(frozen=True)
class Timing:
    """A bound and what was measured; ``ratio`` is measured / bound."""

    bound: Bound
    gap: Gap

    @property
    def ratio(self) -> float:
        """Measured gap in units of the bound."""
        return self.gap.seconds / self.bound.seconds


@dataclass(frozen=True)
class FaultResult:
    """One fault's share.

    Attributes:
        tasks: tasks attempted or in flight in its window.
        bad: what is attributed to it: name of the count -> number.
        extra: extra executions attributed to it.
        exposed: tasks unacknowledged, and publishes unanswered, when or while it happened.
    """

    fault: Fault
    tasks: int
    bad: dict[str, int]
    extra: int
    exposed: int
    timings: list[Timing]


@dataclass(frozen=True)
class Verdict:
    """The judgement.

    Attributes:
        word: pass, fail or inconclusive.
        reasons: sentences; for a pass what was shown, else what is wrong.
        task_bound: 95% upper bound of the probability that a task is lost (3/N), None unless nothing was lost.
        fault_bound: the same per fault.
    """

    word: str
    reasons: list[str]
    counts: Counts
    faults: list[FaultResult]
    task_bound: float | None = None
    fault_bound: float | None = None
    slow: list[str] = field(default_factory=list)


def count(history: History) -> Counts:
    """Sort the ids of a history; uses no clock except for ``false_ack``, whose times come from one clock."""
    attempted = frozenset(history.attempts)
    acknowledged = frozenset(i for i, o in history.outcomes.items() if o.result in ACKNOWLEDGED)
    finished = frozenset(
        i for i, runs in history.runs.items() if any(run.end is not None and run.final for run in runs)
    )
    poison = frozenset(i for i, attempt in history.attempts.items() if attempt.poison)
    dead, unrouted = frozenset(history.dead), frozenset(history.unrouted)
    extra = {i: _extra(history, i) for i in finished - poison}
    return Counts(
        attempted=attempted,
        acknowledged=acknowledged,
        unknown=attempted - acknowledged,
        executed=finished,
        recovered=(finished & attempted) - acknowledged,
        duplicated=frozenset(i for i in finished - poison if _repeated(history, i)),
        extra={i: number for i, number in extra.items() if number},
        lost=acknowledged - finished - dead - unrouted,
        unexpected=(frozenset(history.runs) | dead | unrouted) - attempted,
        result_lost=frozenset(i for i, state in history.results.items() if state != "SUCCESS"),
        effect_duplicated=frozenset(i for i, number in history.effects.items() if number > 1),
        effect_lost=frozenset(i for i, number in history.effects.items() if number < 1),
        dead_lettered=dead,
        innocent_dead=dead - poison,
        poison_escaped=(poison & acknowledged) - dead,
        unrouted=unrouted,
        false_ack=_false_acks(history),
    )


def judge(history: History) -> Verdict:
    """Return the verdict. What is certain fails; what cannot be known is inconclusive; the rest passes."""
    counts = count(history)
    index = _Index(history)
    results = [_result(history, counts, index, fault) for fault in history.faults]
    slow = [line for result in results for line in _slow(result)]
    certain = [
        *_complaint(counts.false_ack, "confirmed while no majority could have taken it"),
        *_complaint(counts.effect_duplicated, "changed the database more than once"),
    ]
    complete = [
        *_complaint(counts.lost, "acknowledged, never ran, and in no queue: lost"),
        *_complaint(counts.unexpected, "ran or died although nobody attempted it"),
        *_complaint(counts.result_lost, "ran without a readable result"),
        *_complaint(counts.effect_lost, "ran and left no effect in the database"),
        *_complaint(counts.innocent_dead, "in the dead-letter queue though nothing was wrong with it"),
        *_complaint(counts.poison_escaped, "poison that did not end in the dead-letter queue"),
        *([] if _operated(history) else _unexplained(counts, results)),
        *(line for result in results for line in _too_slow(result)),
        *_miscounted(history, counts),
    ]
    unknown = [
        *history.unchecked,
        *(f"fault {f.key}: {f.problem}" for f in history.faults if f.problem),
        *(f"fault {f.key}: nothing proves that it was applied" for f in history.faults if not f.proof),
        *(f"fault {f.key}: nothing proves that it was healed" for f in history.faults if not f.healed),
        *([] if history.drained else ["the queues did not run empty, so nothing can be called lost or kept"]),
        *([f"the audit: {history.audit['problem']}"] if history.audit and history.audit["problem"] else []),
        *([] if counts.acknowledged else ["no task was acknowledged, so nothing was tested"]),
    ]
    readable = not history.unchecked and history.drained
    if certain or (complete and readable):
        return Verdict(FAIL, certain + complete + unknown, counts, results, slow=slow)
    if unknown or complete:
        return Verdict(INCONCLUSIVE, unknown + [f"if the ledger were complete: {c}" for c in complete], counts, results)
    number, faults = len(counts.acknowledged), len(history.faults)
    acknowledged, injected = _number(number, "task"), _number(faults, "fault")
    shown = [f"{acknowledged} acknowledged: each ran or is in the dead-letter queue; {injected} injected."]
    if history.audit:
        shown.append(f"The audit, which sees {history.audit['share']:.0%} of all tasks, counts none of them.")
    return Verdict(PASS, shown, counts, results, upper_bound(number), upper_bound(faults), slow)


def upper_bound(trials: int) -> float | None:
    """Return the 95% upper bound of a probability after ``trials`` without an event (the rule of three)."""
    return min(1.0, 3 / trials) if trials else None


def _extra(history: History, task_id: str) -> int:
    """Executions beyond the first of each retry, the unfinished ones included.

    A chord whose publishing task ran twice is published twice: its tasks may run once for each.
    """
    runs = [run.retries for run in history.runs[task_id]]
    parent = task_id.rpartition(".")[0]
    published = max(1, len(history.runs[parent])) if parent in history.attempts else 1
    return max(0, len(runs) - len(set(runs)) - (published - 1))


def _repeated(history: History, task_id: str) -> bool:
    ends = [run.retries for run in history.runs[task_id] if run.end is not None]
    return len(ends) > len(set(ends))


def _false_acks(history: History) -> frozenset[str]:
    windows = [(f.applied_at + SILENCE_STARTS, f.heal_at) for f in history.faults if f.silent and f.proof]
    return frozenset(
        task_id
        for task_id, outcome in history.outcomes.items()
        if outcome.result == "acknowledged"
        and task_id in history.attempts
        and any(start <= history.attempts[task_id].at and outcome.at < end for start, end in windows)
    )


class _Index:
    """What is looked up for each fault, made once."""

    def __init__(self, history: History) -> None:
        self.flows = gaps.streams(history)
        self.alive = Intervals((a.at, _done(history, i), i) for i, a in history.attempts.items())
        self.running = Intervals(
            (run.start, _over(history, i, run), i) for i, runs in history.runs.items() for run in runs
        )
        self.doubtful = Intervals((a.at, _doubted(history, i), i) for i, a in history.attempts.items())


def _result(history: History, counts: Counts, index: _Index, fault: Fault) -> FaultResult:
    start, end = fault.apply_at, fault.settled_at or fault.healed_at or fault.heal_at
    mine = set(index.alive.touching(start, end))
    bad = {
        name: len(mine & getattr(counts, name))
        for name in ("lost", "result_lost", "effect_duplicated", "innocent_dead", "false_ack", "recovered")
    }
    unanswered = sum(_doubted(history, i) > history.attempts[i].at for i in index.doubtful.touching(start, end))
    in_flight = sum(1 for _ in index.running.touching(start, start))
    timings = (
        [Timing(b, gaps.measure(index.flows, fault, b)) for b in fault.bounds]
        if fault.applied_at and fault.settled_at
        else []
    )
    extra = sum(counts.extra[i] for i in mine & counts.extra.keys())
    return FaultResult(fault, len(mine), bad, extra, max(fault.unacked, in_flight) + unanswered, timings)


def _done(history: History, task_id: str) -> float:
    """Return when a task had ended for the last time; infinity for one that never did."""
    return max((run.end for run in history.runs.get(task_id, ()) if run.end is not None), default=float("inf"))


def _over(history: History, task_id: str, run: Run) -> float:
    """Return when an execution could no more be repeated: its result was stored, or, cut, it was."""
    if run.end is None:
        return min((r.start for r in history.runs[task_id] if r.start > run.start), default=float("inf"))
    return min((mark for mark in history.stored.get(task_id, ()) if mark > run.end), default=run.end)


def _doubted(history: History, task_id: str) -> float:
    """Return until when a publish took so long, or went so badly, that it may have been sent twice."""
    attempt, outcome = history.attempts[task_id], history.outcomes.get(task_id)
    if outcome is not None and outcome.result in ACKNOWLEDGED and outcome.at - attempt.at <= 0.5:
        return attempt.at
    return attempt.at + LONG if outcome is None else outcome.at


def _number(count: int, what: str) -> str:
    """Return how many there are of what, in words."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _complaint(ids: Iterable[str], what: str) -> list[str]:
    found = sorted(ids)
    shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    return [f"{_number(len(found), 'task')} {what} ({shown})"] if found else []


def _operated(history: History) -> bool:
    """Whether a command of an operator ran meanwhile: it may end a worker, and so repeat a task, at any moment."""
    return bool(history.meta.get("options", {}).get("operated"))


def _miscounted(history: History, counts: Counts) -> list[str]:
    """What the audit must count and does not, and the other way round; it may count what no queue took."""
    if history.audit is None:
        return []
    counted, limit = set(history.audit["unaccounted"]), history.audit["share"] * marks.WHOLE
    seen = {task_id for task_id in counts.lost if marks.stamp(task_id, limit).startswith(marks.SIGN)}
    return [
        *_complaint(counted - counts.lost - counts.unrouted, "counted by the audit although not lost"),
        *_complaint(seen - counted, "lost, audited, and not counted by the audit"),
    ]


def _unexplained(counts: Counts, results: list[FaultResult]) -> list[str]:
    """More extra executions than faults can have caused."""
    exposed, extra = sum(result.exposed for result in results), sum(counts.extra.values())
    if extra <= exposed:
        return []
    exposures = _number(exposed, "task")
    return [f"{_number(extra, 'extra execution')}, but only {exposures} unacknowledged or unanswered at a fault"]


def _slow(result: FaultResult) -> list[str]:
    return [_describe(result, timing) for timing in result.timings if timing.ratio > 1]


def _too_slow(result: FaultResult) -> list[str]:
    return [_describe(result, timing) for timing in result.timings if timing.ratio > SLOW]


def _describe(result: FaultResult, timing: Timing) -> str:
    least = "" if timing.gap.ended else "at least "
    return (
        f"fault {result.fault.key}: {timing.bound.stream} stood still for {least}{timing.gap.seconds:.1f} s, "
        f"the bound is {timing.bound.seconds:.1f} s ({timing.bound.formula})"
    )

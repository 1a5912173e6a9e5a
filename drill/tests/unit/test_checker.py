"""Each verdict from a history made by hand: a checker that cannot say "fail" proves nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from histories import add, fault, healthy, lose
from hypothesis import given, settings
from hypothesis import strategies as st

from drill.faults.record import Bound
from drill.judge import checker
from drill.judge.history import Attempt, History, Outcome, Run

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_healthy_run_passes_with_its_statistical_bounds() -> None:
    verdict = checker.judge(healthy(300))
    assert (verdict.word, verdict.task_bound, verdict.fault_bound) == ("pass", 0.01, 1.0)


def cut(history: History) -> None:
    add(history, "x", 12, ran=0)
    history.runs["x"].append(Run(0, "w1", 12.2, None))


def invent(history: History) -> None:
    history.runs["x"].append(Run(0, "w1", 1, 2))


def lose_result(history: History) -> None:
    history.results["t1"] = None


def fail_result(history: History) -> None:
    history.results["t1"] = "FAILURE"


def repeat_effect(history: History) -> None:
    history.effects["t1"] = 2


def lose_effect(history: History) -> None:
    history.effects["t1"] = 0


def kill_innocent(history: History) -> None:
    history.dead["t1"] += 1


def spare_poison(history: History) -> None:
    add(history, "x", 12, poison=True, ran=0)
    history.unrouted["x"] += 1


def confirm_falsely(history: History) -> None:
    history.faults = [fault(silent=True)]
    add(history, "x", 13)


def repeat_without_reason(history: History) -> None:
    history.runs["t1"].append(Run(0, "w2", 2, 3))


def recover_slowly(history: History) -> None:
    history.faults = [fault(bounds=[Bound("publish", 4.4, "apply", "test")])]


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lose, "lost"),
        (cut, "lost"),
        (invent, "unexpected"),
        (lose_result, "result_lost"),
        (fail_result, "result_lost"),
        (repeat_effect, "effect_duplicated"),
        (lose_effect, "effect_lost"),
        (kill_innocent, "innocent_dead"),
        (spare_poison, "poison_escaped"),
        (confirm_falsely, "false_ack"),
        (repeat_without_reason, "extra"),
        (recover_slowly, None),
    ],
)
def test_one_wrong_task_fails_the_run(damage: Callable[[History], None], name: str | None) -> None:
    history = healthy()
    damage(history)
    verdict = checker.judge(history)
    assert verdict.word == "fail", verdict.reasons
    assert name is None or verdict.counts.sizes()[name] == 1


def test_what_is_allowed_passes() -> None:
    history = healthy()
    add(history, "dead-poison", 12, poison=True, ran=0)
    history.dead["dead-poison"] += 1
    add(history, "unrouted", 12, ran=0)
    history.unrouted["unrouted"] += 1
    history.attempts["never-sent"] = Attempt("short", "single", poison=False, at=12)
    history.outcomes["never-sent"] = Outcome("error", 13, "Nacked")
    add(history, "recovered", 12)
    history.outcomes["recovered"] = Outcome("error", 13, "TimedOut")
    add(history, "retried", 12, ran=0)
    history.runs["retried"] += [Run(0, "w1", 12, 12.1), Run(1, "w1", 14, 14.1)]
    verdict = checker.judge(history)
    assert verdict.word == "pass", verdict.reasons
    assert verdict.counts.recovered == {"recovered"}
    assert verdict.counts.unknown == {"recovered", "never-sent"}


@pytest.mark.parametrize(
    "change",
    [
        {"drained": False},
        {"drained": None},
        {"unchecked": ["w1.ledger: 7 records were written, 6 are there"]},
        {"faults": [fault(proof="")]},
        {"faults": [fault(healed="")]},
        {"faults": [fault(problem="docker pause: no such container")]},
        {"outcomes": {}, "attempts": {}, "runs": {}, "results": {}, "effects": {}, "stored": {}},
    ],
)
def test_what_cannot_be_known_is_inconclusive(change: dict[str, Any]) -> None:
    assert checker.judge(replace(healthy(), **change)).word == "inconclusive"


@pytest.mark.parametrize("change", [{"drained": False}, {"unchecked": ["a gap"]}])
def test_a_loss_in_an_incomplete_ledger_is_inconclusive_and_named(change: dict[str, Any]) -> None:
    history = replace(healthy(), **change)
    lose(history)
    verdict = checker.judge(history)
    assert verdict.word == "inconclusive"
    assert any("lost" in reason for reason in verdict.reasons)


def test_a_repeated_effect_is_certain_even_when_the_ledger_is_incomplete() -> None:
    history = replace(healthy(), unchecked=["a gap"])
    repeat_effect(history)
    assert checker.judge(history).word == "fail"


def test_a_command_that_runs_meanwhile_explains_extra_executions_and_no_loss() -> None:
    history = healthy()
    repeat_without_reason(history)
    history.meta["options"] = {"operated": True}
    assert checker.judge(history).word == "pass"
    lose(history)
    assert checker.judge(history).word == "fail"


@pytest.mark.parametrize(("extra", "word"), [(3, "pass"), (4, "fail")])
def test_extra_executions_up_to_the_unacknowledged_tasks_are_explained(extra: int, word: str) -> None:
    history = healthy()
    history.faults = [fault(unacked=3)]
    add(history, "x", 12, ran=1 + extra)
    assert checker.judge(history).word == word


@pytest.mark.parametrize(("acked", "false"), [(11.9, 0), (12.1, 1), (15.1, 0)])
def test_a_false_confirm_is_one_that_began_and_ended_in_silence(acked: float, false: int) -> None:
    history = healthy()
    history.faults = [fault(silent=True)]
    history.attempts["x"] = Attempt("short", "single", poison=False, at=acked if acked < 12 else 12.05)
    history.outcomes["x"] = Outcome("acknowledged", acked)
    history.runs["x"].append(Run(0, "w1", 16, 17))
    assert checker.judge(history).counts.sizes()["false_ack"] == false


def test_a_bad_task_is_attributed_to_the_fault_it_met() -> None:
    history = healthy()
    history.faults = [fault(), fault(key="2-kill", apply_at=30, applied_at=31, heal_at=35, healed_at=36, settled_at=40)]
    add(history, "x", 32, ran=1)
    history.results["x"] = None
    first, second = checker.judge(history).faults
    assert (first.bad["result_lost"], second.bad["result_lost"]) == (0, 1)


@settings(deadline=None)  # the machine may be busy
@given(
    skew=st.dictionaries(st.sampled_from([f"t{n}" for n in range(5)]), st.floats(-1e6, 1e6)),
    damage=st.sampled_from([None, lose, invent, lose_result, repeat_effect, kill_innocent, spare_poison]),
)
def test_a_wrong_clock_of_a_worker_changes_no_count(
    skew: dict[str, float], damage: Callable[[History], None] | None
) -> None:
    history = healthy()
    if damage:
        damage(history)
    before = checker.judge(history)
    for task_id, shift in skew.items():
        history.runs[task_id] = [
            replace(run, start=run.start + shift, end=None if run.end is None else run.end + shift)
            for run in history.runs[task_id]
        ]
    after = checker.judge(history)
    assert (after.word, after.counts) == (before.word, before.counts)


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans(), st.booleans()), max_size=30),
    st.booleans(),
)
def test_lost_is_what_was_promised_and_is_nowhere(tasks: list[tuple[bool, int, bool, bool]], drained: bool) -> None:
    history = History("run1", drained=drained)
    for number, (acknowledged, runs, dead, unrouted) in enumerate(tasks):
        name = f"t{number}"
        add(history, name, number, ran=runs)
        if not acknowledged:
            history.outcomes[name] = Outcome("error", number, "TimedOut")
        history.dead[name] += dead
        history.unrouted[name] += unrouted
    history.dead += type(history.dead)()  # drops the zeros
    history.unrouted += type(history.unrouted)()
    expected = {
        f"t{number}"
        for number, (acknowledged, runs, dead, unrouted) in enumerate(tasks)
        if acknowledged and not (runs or dead or unrouted)
    }
    verdict = checker.judge(history)
    assert verdict.counts.lost == expected
    if expected:
        assert verdict.word == ("fail" if drained else "inconclusive")


def test_a_fault_that_was_not_applied_is_inconclusive_and_has_no_times() -> None:
    history = healthy()
    bound = Bound("work", 4, "apply", "")
    history.faults = [fault(applied_at=0.0, proof="", healed="", problem="no such process", bounds=[bound])]
    verdict = checker.judge(history)
    assert verdict.word == "inconclusive"
    assert verdict.faults[0].timings == []


def test_the_rule_of_three() -> None:
    assert checker.upper_bound(100_000) == 3e-5
    assert checker.upper_bound(2) == 1.0
    assert checker.upper_bound(0) is None


def audited(*counted: str, share: float = 1.0, problem: str = "") -> dict[str, Any]:
    return {"share": share, "unaccounted": list(counted), "undecided": 0, "problem": problem}


def test_an_audit_that_counts_what_the_ledger_calls_lost_adds_no_complaint() -> None:
    history = replace(healthy(), audit=audited("x"))
    lose(history)
    assert [reason for reason in checker.judge(history).reasons if "audit" in reason] == []
    green = checker.judge(replace(healthy(), audit=audited()))
    assert (green.word, green.reasons[1:]) == (
        "pass",
        ["The audit, which sees 100% of all tasks, counts none of them."],
    )
    unrouted = replace(healthy(), audit=audited("u"))
    add(unrouted, "u", 12, ran=0)
    unrouted.unrouted["u"] += 1
    assert checker.judge(unrouted).word == "pass", "nothing runs it: it may be counted"


def test_an_audit_that_counts_something_else_fails_the_run() -> None:
    wrong = checker.judge(replace(healthy(), audit=audited("t1")))
    assert (wrong.word, wrong.reasons) == (
        "fail",
        ["1 task counted by the audit although not lost (t1)"],
    )
    blind = replace(healthy(), audit=audited())
    lose(blind)
    assert "1 task lost, audited, and not counted by the audit (x)" in checker.judge(blind).reasons
    unseen = replace(blind, audit=audited(share=0.000001))
    assert [reason for reason in checker.judge(unseen).reasons if "audit" in reason] == [], "not of the sample"


def test_an_audit_that_cannot_judge_is_inconclusive() -> None:
    history = replace(healthy(), audit=audited(problem="the queue default may still hold some"))
    verdict = checker.judge(history)
    assert (verdict.word, verdict.reasons) == ("inconclusive", ["the audit: the queue default may still hold some"])


@pytest.mark.parametrize(("number", "said"), [(1, "1 task acknowledged"), (2, "2 tasks acknowledged")])
def test_one_is_not_many(number: int, said: str) -> None:
    history = healthy(300)
    for task in range(number):
        add(history, f"x{task}", 12, ran=0)
    assert checker.judge(history).reasons[0].startswith(f"{said}, never ran, and in no queue: lost (x0")
    assert checker.judge(healthy(1)).reasons == [
        "1 task acknowledged: each ran or is in the dead-letter queue; 1 fault injected."
    ]

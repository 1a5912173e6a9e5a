"""Two faults overlap: both are proven at the same time, undone whatever happens, and it is known what they leave."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from fakes import FakeTarget

from drill import ROOT
from drill.cli import main
from drill.faults import REGISTRY, Plan, Spec, pairs
from drill.faults.broker import BOOT
from drill.faults.journal import Journal
from drill.faults.record import Bound
from drill.run.drill import Drill, Options
from drill.targets import Node, TargetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES = {"rabbit": 3, "redis": 3, "sentinel": 3, "worker": 2, "beat": 2}
RNG = random.Random(1)  # noqa: S311 - repeatable, not secret


class PairStack:
    """Nodes, and answers without waiting."""

    def __init__(self, target: FakeTarget) -> None:
        self.target = target
        self.publishers: Any = None

    def node(self, name: str) -> Node:
        return self.target.nodes[name]

    def tier(self, name: str) -> list[Node]:
        return [node for node in self.target.nodes.values() if node.tier == name]

    def depth(self) -> dict[str, int]:
        return {"unacked": 2}

    def wait(self, condition: Callable[[], Any], _timeout: float) -> Any:
        try:
            return condition()
        except TargetError:
            return None

    def wait_healthy(self, _timeout: float) -> list[str]:
        return []


def made(*names: str) -> Any:
    return PairStack(FakeTarget(*names))


def holding(stack: Any, *names: str, undo: str = "start", bounds: list[Bound] | None = None) -> Plan:
    """Return a plan that kills nodes."""
    nodes = [stack.node(name) for name in names]
    return Plan(
        list(names),
        lambda: stack.target.kill(nodes),
        lambda: " ".join(name for name in names if stack.target.state[name] == "exited"),
        [(undo, name) for name in names],
        lambda: " ".join(name for name in names if stack.target.state[name] == "running"),
        bounds or [],
        0,
    )


def register(monkeypatch: pytest.MonkeyPatch, name: str, plan: Callable[[Any, Any], Plan]) -> None:
    monkeypatch.setitem(REGISTRY, name, Spec(name, name, (), plan, takes=("rabbit",), lasts=True))


def test_the_first_of_each_pair_lasts_and_no_fault_meets_itself() -> None:
    found = [pairs.parts(name) for name in pairs.every()]
    assert found
    assert all(REGISTRY[first].lasts and REGISTRY[second].takes is not None for first, second in found)
    assert all(first != second for first, second in found)


def test_the_page_says_how_many_there_are() -> None:
    page = (ROOT / "docs/how-to/drill.md").read_text(encoding="utf-8")
    stack = SIZES | {"flower": 1, "prometheus": 1}
    assert f"{len(pairs.covered(stack))} of {len(pairs.every())} pairs" in page


@pytest.mark.parametrize(
    ("name", "stands_still"),
    [
        ("broker-outage+redis-primary-kill", []),
        ("broker-partition+worker-host-kill", []),
        ("redis-primary-isolate+broker-leader-kill", []),
        ("worker-pause+beat-kill", []),
        ("sentinel-majority-kill+broker-outage", []),
        ("broker-outage+broker-leader-pause", ["rabbit"]),
        ("broker-majority-kill+worker-host-kill", ["rabbit"]),
        ("redis-primary-kill+redis-primary-crash", ["redis"]),
        ("sentinel-majority-kill+redis-primary-crash", ["sentinel"]),
        ("worker-pause+worker-all-kill", ["worker"]),
    ],
)
def test_a_pair_is_covered_while_enough_is_left_of_each_tier(name: str, stands_still: list[str]) -> None:
    assert name in pairs.every()
    assert pairs.stops(name, SIZES) == stands_still
    assert (name in pairs.covered(SIZES)) is not bool(stands_still)
    assert pairs.ends(name, SIZES) == [pairs.ENDS[tier] for tier in stands_still]


def test_five_brokers_can_spare_two() -> None:
    assert pairs.stops("broker-outage+broker-leader-pause", SIZES | {"rabbit": 5}) == []


def test_one_recovery_may_wait_for_the_other() -> None:
    stack = made("rabbit1", "redis1")
    broker = holding(stack, "rabbit1", bounds=[Bound("publish", 5, "apply", "a"), Bound("work", 8, "apply", "b")])
    results = holding(stack, "redis1", bounds=[Bound("results", 13, "apply", "c")])
    found = pairs.bounds("broker-outage+redis-primary-kill", [broker, results], SIZES)
    assert {(b.stream, b.seconds, b.since) for b in found} == {
        ("publish", 5, "apply"),
        ("work", 21, "apply"),
        ("results", 21, "apply"),
    }
    results.bounds[0].since = "heal"
    found = pairs.bounds("broker-outage+redis-primary-kill", [broker, results], SIZES)
    assert [b.since for b in found] == ["apply", "heal", "heal"]


def test_what_stands_still_is_bounded_from_its_healing_on() -> None:
    stack = made("rabbit1", "rabbit2")
    both = [holding(stack, name, bounds=[Bound("publish", 5, "apply", "a")]) for name in ("rabbit1", "rabbit2")]
    found = pairs.bounds("broker-outage+broker-leader-pause", both, SIZES)
    assert [(b.seconds, b.since) for b in found] == [(10 + BOOT, "heal")]


@pytest.mark.parametrize(
    ("held", "chosen"),
    [
        (("rabbit1", "start"), ("rabbit1", "resume")),
        (("rabbit@data1", "open"), ("redis@data1", "open")),
        (("worker@work1", "start"), ("beat@work1", "start")),
    ],
    ids=["one node", "one network", "one supervisor"],
)
def test_the_second_fault_touches_nothing_that_the_first_one_holds(
    held: tuple[str, str], chosen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = made()
    for name in ("rabbit1", "rabbit2", "rabbit@data1", "redis@data1", "worker@work1", "beat@work1"):
        tier, _, host = name.rstrip("0123456789").partition("@")
        stack.target.nodes[name] = Node(name, tier, "", name, host or name)
    first = holding(stack, held[0], undo=held[1])
    register(monkeypatch, "second", lambda stack, _: holding(stack, chosen[0], undo=chosen[1]))
    with pytest.raises(TargetError, match="what the first fault holds"):
        pairs.plan(stack, "second", [first], RNG)
    assert pairs.plan(stack, "second", [holding(stack, "rabbit2")], RNG).targets == [chosen[0]]


def test_nobody_may_confirm_while_two_of_three_brokers_are_down_until_healed() -> None:
    stack = made("rabbit1", "rabbit2", "rabbit3", "redis1")
    one, two, other = (holding(stack, name) for name in ("rabbit1", "rabbit2", "redis1"))
    stack.target.state |= {"rabbit1": "exited", "redis1": "exited"}
    assert not pairs.silent(stack, "broker-outage+redis-primary-kill", [one, other])
    assert not pairs.silent(stack, "broker-outage+broker-leader-pause", [one, two])
    stack.target.state |= {"rabbit2": "paused"}
    assert pairs.silent(stack, "broker-outage+broker-leader-pause", [one, two])
    assert not pairs.silent(stack, "broker-outage+broker-leader-kill", [one, two]), "the second starts again by itself"


def run(stack: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, second: Callable[[Any, Any], Plan]) -> Any:
    """Inject a pair of ``first``, which kills rabbit1, and ``second``."""
    register(monkeypatch, "first", lambda stack, _: holding(stack, "rabbit1"))
    register(monkeypatch, "second", second)
    drill = Drill(stack, Options(seed=1, calm=0), folder, Journal(folder / "state"), lambda _: None)
    record = drill.inject("1-first+second", "first+second", RNG)
    drill.book.close()
    assert drill.journal.steps() == []
    return record


def test_both_hold_at_the_same_time_and_are_healed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = made("rabbit1", "redis1")

    def second(stack: Any, _rng: Any) -> Plan:
        assert stack.target.state["rabbit1"] == "exited", "it is planned while the first holds"
        return holding(stack, "redis1")

    record = run(stack, tmp_path, monkeypatch, second)
    assert (record.problem, record.proof, record.healed) == ("", "rabbit1; redis1", "rabbit1; redis1")
    assert (record.targets, record.unacked) == (["rabbit1", "redis1"], 4)
    assert stack.target.done[1:] == ["kill rabbit1", "kill redis1", "start redis1", "start rabbit1"]


def test_a_broker_that_the_first_fault_froze_need_not_say_what_workers_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = made("rabbit1", "redis1")

    def depth() -> dict[str, int]:
        if stack.target.state["rabbit1"] != "running":
            raise TargetError("nobody answers")
        return {"unacked": 3}

    stack.depth = depth
    record = run(stack, tmp_path, monkeypatch, lambda stack, _: holding(stack, "redis1"))
    assert (record.problem, record.unacked) == ("", 6)
    stack.target.state["rabbit1"] = "exited"
    record = run(stack, tmp_path / "again", monkeypatch, lambda stack, _: holding(stack, "redis1"))
    assert record.problem == "TargetError: nobody answers", "before the first fault somebody must"


def test_a_first_fault_that_is_over_when_the_second_holds_proves_no_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(stack: Any, _rng: Any) -> Plan:
        plan = holding(stack, "redis1")
        kill = plan.apply

        def apply() -> None:
            kill()
            stack.target.start(stack.node("rabbit1"))

        plan.apply = apply
        return plan

    assert run(made("rabbit1", "redis1"), tmp_path, monkeypatch, second).proof == ""


def test_a_second_fault_that_cannot_be_applied_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = made("rabbit1", "redis1")
    record = run(stack, tmp_path, monkeypatch, lambda stack, _: holding(stack, "rabbit1"))
    assert "second found nothing" in record.problem
    assert stack.target.state["rabbit1"] == "running"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broker-outage+broker-flood", "There is no fault broker-flood."),
        ("broker-leader-kill+redis-primary-kill", "is no pair"),
        ("broker-outage+unroutable", "is no pair"),
        ("broker-outage+redis-primary-kill+worker-stop", "is no pair"),
    ],
)
def test_what_is_no_pair_is_refused_by_name(name: str, said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--build", str(tmp_path), "run", name])
    assert result.exit_code
    assert said in " ".join(result.output.split())

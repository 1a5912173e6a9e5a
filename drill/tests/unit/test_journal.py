"""What a killed drill has broken can be healed by the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fakes import fake_stack

from drill.faults import undo
from drill.faults.base import kill, pause
from drill.faults.journal import Journal
from drill.targets import TargetError

if TYPE_CHECKING:
    from pathlib import Path


def test_steps_are_on_the_disk_before_the_fault_and_heal_from_a_new_process(tmp_path: Path) -> None:
    target, stack = fake_stack("rabbit1", "redis1")
    plan = pause(stack, [stack.node("rabbit1")], [], 1)
    Journal(tmp_path).open(plan.undo)
    plan.apply()
    assert plan.proof() == "rabbit1 paused"
    later = Journal(tmp_path)  # the first one's process is gone
    assert later.steps() == [("resume", "rabbit1")]
    assert later.heal(stack) == []
    assert target.state["rabbit1"] == "running"
    assert plan.healed() == "rabbit1 running"
    assert later.steps() == []


def test_a_step_that_fails_stays_and_the_others_are_done(tmp_path: Path) -> None:
    target, stack = fake_stack("rabbit1", "redis1")
    plan = kill(stack, [stack.node("rabbit1"), stack.node("redis1")], [], 1)
    journal = Journal(tmp_path)
    journal.open([*plan.undo, ("ctl", "rabbit1", "no such thing")])
    plan.apply()
    target.broken.add("start")
    with pytest.raises(AttributeError):
        journal.heal(stack)  # the fake has no broker to ask: an unforeseen error is not swallowed
    assert len(journal.steps()) == 3
    journal.open(plan.undo)
    assert len(journal.heal(stack)) == 2
    assert journal.steps() == plan.undo
    target.broken.clear()
    assert journal.heal(stack) == []


def test_healing_what_is_whole_does_nothing() -> None:
    target, stack = fake_stack("rabbit1")
    for verb in ("start", "resume"):
        undo(stack, (verb, "rabbit1"))
    assert target.done == []


def test_an_unknown_verb_is_an_error() -> None:
    _, stack = fake_stack("rabbit1")
    with pytest.raises(TargetError, match="another version"):
        undo(stack, ("explode", "rabbit1"))


def test_a_fault_is_not_proven_by_half_of_its_targets() -> None:
    target, stack = fake_stack("rabbit1", "rabbit2")
    nodes = [stack.node("rabbit1"), stack.node("rabbit2")]
    plan = kill(stack, nodes, [], 1)
    target.kill(nodes[:1])
    assert plan.proof() == ""
    target.kill(nodes[1:])
    assert plan.proof() == "rabbit1, rabbit2 exited"


def test_two_drills_do_not_run_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path).alone(), pytest.raises(TargetError, match="Another drill"), Journal(tmp_path).alone():
        pytest.fail("the lock was taken twice")

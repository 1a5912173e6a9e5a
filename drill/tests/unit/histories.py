"""Histories of runs, made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drill.faults.record import Fault
from drill.judge.history import Attempt, History, Outcome, Run


def fault(**changes: Any) -> Fault:
    base = Fault("1-kill", "kill", ["rabbit1"], 10, 11, 15, 16, 20, proof="stopped", healed="running")
    return replace(base, **changes)


def healthy(tasks: int = 5) -> History:
    """All tasks attempted at their number, acknowledged half a second later, run at once."""
    history = History("run1", drained=True, faults=[fault()])
    for number in range(tasks):
        add(history, f"t{number}", float(number))
    return history


def add(history: History, task_id: str, at: float, *, poison: bool = False, ran: int = 1) -> None:
    history.attempts[task_id] = Attempt("short", "single", poison, at)
    history.outcomes[task_id] = Outcome("acknowledged", at + 0.1)
    for _ in range(ran):
        history.runs[task_id].append(Run(0, "w1", at + 0.2, at + 0.3))
    if ran:
        history.results[task_id] = "SUCCESS"
        history.effects[task_id] = 1
        history.stored[task_id].append(at + 0.4)


def lose(history: History) -> None:
    add(history, "x", 12, ran=0)

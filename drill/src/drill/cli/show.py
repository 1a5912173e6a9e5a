"""What a person sees of a run, while it goes on and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from drill.judge import checker

if TYPE_CHECKING:
    from pathlib import Path

    from drill.judge.checker import Verdict
    from drill.run.drill import Progress


def view(progress: Progress, total: int) -> Table:
    """Return the progress of a run of ``total`` faults, 0 when their number is open."""
    table = Table.grid(padding=(0, 2))
    table.add_row("fault", f"{progress.done}{f' of {total}' if total else ''} {progress.fault}")
    table.add_row("now", progress.phase)
    table.add_row("published", f"{progress.acknowledged} acknowledged, {progress.failed} failed")
    table.add_row("queues", progress.depth or "empty")
    return table


class Lines:
    """Says in one line each what a run does now: for a log, where nothing can be shown in place.

    Args:
        total: number of faults, 0 when it is open.
    """

    def __init__(self, total: int = 0) -> None:
        self._of = f" of {total}" if total else ""
        self._last = ("", "")

    def __call__(self, progress: Progress) -> None:
        """Print the progress to stderr if the run has come to another step."""
        step = progress.phase.partition(":")[0]  # what follows is a count that changes all the time
        if (progress.fault, step) != self._last:
            self._last = (progress.fault, step)
            fault = f"{progress.fault}: " if progress.fault else ""
            click.echo(
                f"{progress.done}{self._of} faults, {progress.acknowledged} acknowledged: {fault}{step}", err=True
            )


def print_verdict(verdict: Verdict, folder: Path) -> None:
    """Print the verdict of the run in a folder."""
    console = Console()
    colour = {checker.PASS: "green", checker.FAIL: "red", checker.INCONCLUSIVE: "yellow"}[verdict.word]
    console.print(f"[bold {colour}]{verdict.word.upper()}[/]")
    for reason in [*verdict.reasons, *verdict.slow]:
        console.print(f"  {reason}")
    sizes = verdict.counts.sizes()
    console.print("  " + ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sizes.items()))
    if verdict.task_bound is not None:
        console.print(f"  With 95% confidence fewer than {verdict.task_bound:.2g} of all tasks are lost.")
    console.print(f"  Report: {folder / 'report.html'}")

"""The commands that load a stack, break it and judge."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from drill.cli.group import known_or_pair, main, on_target
from drill.cli.show import Lines, print_verdict, view
from drill.faults import REGISTRY, pairs
from drill.faults.journal import heal_everything
from drill.judge import checker
from drill.load.sequence import MIX
from drill.run.drill import Drill, Options, judge
from drill.targets import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from drill.cli.places import Places
    from drill.judge.checker import Verdict
    from drill.judge.history import History
    from drill.run.drill import Progress
    from drill.targets.stack import Stack

SETS = ("smoke", "standard", "full", "soak")


@main.command("list")
def list_() -> None:
    """List the faults, the sets that they belong to, and what they take away in a pair.

    FIRST+SECOND is a pair if the first lasts until it is healed.
    """
    table = Table(box=None)
    for column in ("fault", "what it breaks", "sets", "takes away", "lasts"):
        table.add_column(column)
    for spec in REGISTRY.values():
        takes = "no part of a pair" if spec.takes is None else ", ".join(spec.takes) or "no node"
        table.add_row(spec.name, spec.does, " ".join((*spec.sets, "full")), takes, "yes" if spec.lasts else "")
    Console().print(table)


@main.command()
@click.argument("faults", nargs=-1, callback=known_or_pair)
@click.option("--set", "name", type=click.Choice(SETS[:3]), help="A named set of faults instead of single ones.")
@click.option("--seed", type=int, help="Fixes targets, order and load. Default: random.")
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@click.option("--publishers", default=2, show_default=True, type=click.IntRange(1), help="Publisher processes.")
@click.option("--alerts", is_flag=True, help="Hold each fault until its alert is due, and report on it.")
@click.option("--audit", is_flag=True, help="Wait for the running audit, and compare what it counts with the ledger.")
@on_target
@click.pass_obj
def run(
    places: Places,
    *,
    faults: tuple[str, ...],
    name: str | None,
    seed: int | None,
    rate: float,
    publishers: int,
    alerts: bool,
    audit: bool,
) -> None:
    """Inject FAULTS, or those of a set, under load; judge and report.

    FIRST+SECOND injects two that overlap, also such a pair that the guarantee does not cover.
    """
    if bool(faults) == bool(name):
        raise click.UsageError("Name faults, or one set: drill run broker-leader-kill, or drill run --set smoke")
    seed = random.randrange(10_000) if seed is None else seed  # noqa: S311 - a label, not a secret
    chosen = list(faults)
    if name:
        chosen = [spec.name for spec in REGISTRY.values() if name == "full" or name in spec.sets]
        random.Random(seed).shuffle(chosen)  # noqa: S311 - repeatable on purpose
    options = Options(seed, rate, publishers, alerts=alerts, audit=audit)
    sys.exit(checker.EXIT[_execute(places, options, chosen)[1].word])


@main.command("pairs")
@click.option("--number", default=6, show_default=True, type=click.IntRange(1), help="How many pairs.")
@click.option("--seed", type=int, help="Chooses the pairs, their targets and the load. Default: random.")
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@click.option("--publishers", default=2, show_default=True, type=click.IntRange(1), help="Publisher processes.")
@on_target
@click.pass_obj
def pairs_(places: Places, number: int, seed: int | None, rate: float, publishers: int) -> None:
    """Inject two faults that overlap, chosen from all pairs that the guarantee covers; judge and report."""
    seed = random.randrange(10_000) if seed is None else seed  # noqa: S311 - a label, not a secret
    found = pairs.covered(pairs.sizes(places.stack))
    chosen = random.Random(seed).sample(found, min(number, len(found)))  # noqa: S311 - repeatable on purpose
    click.echo(f"{len(chosen)} of {len(found)} pairs are chosen.")
    sys.exit(checker.EXIT[_execute(places, Options(seed, rate, publishers), chosen)[1].word])


@main.command()
@click.option("--hours", default=1.0, show_default=True, help="How long; ends after the current fault.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@click.option("--publishers", default=2, show_default=True, type=click.IntRange(1), help="Publisher processes.")
@on_target
@click.pass_obj
def soak(places: Places, hours: float, seed: int, rate: float, publishers: int) -> None:
    """Inject random faults for hours."""
    names = [spec.name for spec in REGISTRY.values() if "soak" in spec.sets]
    rng, end = random.Random(seed), time.time() + hours * 3600  # noqa: S311 - repeatable on purpose

    def until_end() -> Iterator[str]:
        while True:
            for name in rng.sample(names, len(names)):  # every fault once before any comes again
                if time.time() > end:
                    return
                yield name

    _, verdict = _execute(places, Options(seed, rate, publishers), until_end(), "any fault")
    sys.exit(checker.EXIT[verdict.word])


@main.command()
@click.option("--minutes", default=60.0, show_default=True, help="How long.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@on_target
@click.pass_obj
def calm(places: Places, minutes: float, seed: int, rate: float) -> None:
    """Load without a fault and without poison: nothing may be lost, and no alert may fire."""
    mix = {kind: weight for kind, weight in MIX.items() if kind != "poison"}
    options = Options(seed, rate, mix=mix, calm=minutes * 60, alerts=True)
    history, verdict = _execute(places, options, [])
    for span in history.alerts:
        click.echo(f"{span.name} fired at {datetime.fromtimestamp(span.since, UTC):%H:%M:%S} UTC.", err=True)
    if history.alert_limits and not history.alerts:  # without limits nobody got as far as asking
        click.echo("No alert fired.")
    sys.exit(checker.EXIT[checker.FAIL] if history.alerts else checker.EXIT[verdict.word])


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@click.option("--publishers", default=2, show_default=True, type=click.IntRange(1), help="Publisher processes.")
@on_target
@click.pass_obj
def beside(places: Places, command: tuple[str, ...], seed: int, rate: float, publishers: int) -> None:
    """Run COMMAND under load: it must succeed, nothing may be lost, and no publish may fail.

    Use it to test an operation on a stack in use: drill beside -- make play PLAYBOOK=rolling_restart
    """
    if not shutil.which(command[0]):
        raise click.UsageError(f"There is no program {command[0]}. Next: drill beside -- COMMAND")
    code, shell = 0, dict(os.environ)  # the stack's environment replaces it in this process

    def run_it() -> Iterator[str]:
        nonlocal code
        code = subprocess.run(command, env=shell, check=False).returncode
        places.target.refresh()  # the command may have changed passwords
        yield from ()

    plan = f"nothing by itself, but runs {shlex.join(command)}"
    options = Options(seed, rate, publishers, operated=True)
    _, verdict = _execute(places, options, run_it(), plan, live=False)
    failed = len(verdict.counts.unknown)
    click.echo(f"The command ended with {code}. {failed} publishes failed.")
    sys.exit(checker.EXIT[checker.FAIL] if code or failed else checker.EXIT[verdict.word])


@main.command()
@on_target
@click.pass_obj
def heal(places: Places) -> None:
    """Undo the faults that a killed drill left behind."""
    with places.journal.alone():
        problems = heal_everything(places.stack, places.journal)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo("Still not healthy." if problems else "The stack is healthy.")
    sys.exit(bool(problems))


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(folder: Path) -> None:
    """Judge the ledger in FOLDER again and write its report again."""
    _, verdict = judge(folder.resolve())
    print_verdict(verdict, folder)
    sys.exit(checker.EXIT[verdict.word])


def _execute(
    places: Places, options: Options, faults: Iterable[str], plan: str = "", *, live: bool = True
) -> tuple[History, Verdict]:
    """Run a drill; a target that refuses ends the command.

    Args:
        places: where things are.
        options: what the user chose.
        faults: their names; those of a list are left out where the target has no node for them.
        plan: what the drill will break, in words; the list itself if empty.
        live: show the progress in place on a terminal, which leaves it to nobody else.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # heals on the way out, as Ctrl-C does

    console = Console()
    try:
        journal = places.journal
        with journal.alone(), ExitStack() as screen:
            stack = places.stack
            if faults and isinstance(faults, list):
                faults = _applicable(stack, faults, console)
            total = len(faults) if isinstance(faults, list) else 0
            if journal.steps():
                console.print("A drill was killed in the middle of a fault; healing first.")
                journal.heal(stack)
            console.print(f"Target: {stack.target.name}. Seed {options.seed}, {options.rate:g} tasks a second.")
            console.print(f"This will break, one after the other: {plan or ', '.join(faults) or 'nothing'}.")
            for name in faults if isinstance(faults, list) else []:
                for end in pairs.ends(name, pairs.sizes(stack)):
                    console.print(f"Until {name} is healed, {end}.")
            show: Callable[[Progress], None] = Lines(total)
            if live and console.is_terminal:
                moving = screen.enter_context(Live(console=console, refresh_per_second=4))

                def show(progress: Progress) -> None:
                    moving.update(view(progress, total))

            drill = Drill(stack, options, places.ledgers, journal, show, annotations=places.annotations())
            history, verdict = drill.execute(faults)
    except TargetError as error:
        console.print(f"[red]Not started.[/] {error}")
        sys.exit(checker.EXIT[checker.INCONCLUSIVE])
    print_verdict(verdict, drill.folder)
    return history, verdict


def _applicable(stack: Stack, faults: list[str], console: Console) -> list[str]:
    """Return the faults whose nodes the target has; say which are left out."""
    tiers = {node.tier for node in stack.target.nodes.values()} | ({"disks"} if stack.target.disks else set())
    missing = {name: sorted(pairs.needs(name) - tiers) for name in faults}
    for name in faults:
        if missing[name]:
            console.print(f"Left out: {name}, because this target has no {', '.join(missing[name])}.")
    found = [name for name in faults if not missing[name]]
    if not found:
        raise TargetError("None of these faults applies to this target.")
    return found

"""``holdfast probe``: does a worker consume, does a beat tick; and the watch that restarts one that does not."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from holdfast import pulse, watch


@click.group(name="probe")
def command() -> None:
    """Check that a process works; exit code 0 if it does, 1 with a reason if not."""


@command.command()
@click.argument("names", nargs=-1)
def worker(names: tuple[str, ...]) -> None:
    """Check the workers NAMES (supervisor programs), by default all that have run here."""
    _judge("worker", names)


@command.command()
@click.argument("names", nargs=-1)
def beat(names: tuple[str, ...]) -> None:
    """Check the beats NAMES (supervisor programs), by default all that have run here."""
    _judge("beat", names)


@command.command(name="watch")
def watch_command() -> None:
    """Restart programs of supervisor that fail their probe; runs as an event listener of supervisor (TICK_5)."""
    watch.run(sys.stdin, sys.stdout)


def _judge(kind: str, names: tuple[str, ...]) -> NoReturn:
    try:
        folder = pulse.directory()
    except OSError as error:
        raise click.ClickException(f"No heartbeat can be read: {error}") from error
    found = {name: pulse.read(name) for name in names or pulse.names()}
    verdicts = {
        name: heartbeat.problems() if heartbeat else ["it has written no heartbeat; is it started?"]
        for name, heartbeat in found.items()
        if names or (heartbeat and heartbeat.kind == kind)
    }
    if not verdicts:
        click.echo(f"No {kind} has written a heartbeat to {folder}; is one running?")
    for name, problems in verdicts.items():
        heartbeat = found[name]
        notes = heartbeat.notes() if heartbeat and not problems else []
        click.echo(f"{name}: {'; '.join(problems or ['ok', *notes])}")
    sys.exit(any(verdicts.values()) or not verdicts)

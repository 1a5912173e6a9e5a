"""What an operator does with an outbox, whichever database it is in."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from holdfast.outbox.rows import Rows


@click.command()
@click.pass_obj
def status(rows: Rows) -> None:
    """Print the number of waiting and parked rows, as JSON."""
    click.echo(json.dumps(asdict(rows.backlog()), default=str))


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, messages included.")
@click.pass_obj
def list_parked(rows: Rows, *, as_json: bool) -> None:
    """Show the parked rows."""
    for row in rows.parked():
        if as_json:
            click.echo(json.dumps(asdict(row) | {"workflow": json.loads(row.workflow)}, default=str))
        else:
            click.echo(f"{row.id}  {row.task_id}  {row.task}  {row.attempts} attempts  {row.parked_at}  {row.error}")


@click.command()
@click.argument("ids", nargs=-1, type=int, required=True)
@click.pass_obj
def release(rows: Rows, ids: tuple[int, ...]) -> None:
    """Let the relay try parked rows again, by the number that `list` shows."""
    click.echo(f"{rows.release(ids)} released.")


@click.command()
@click.argument("ids", nargs=-1, type=int, required=True)
@click.confirmation_option(prompt="The tasks in these rows will never run. Discard them?")
@click.pass_obj
def discard(rows: Rows, ids: tuple[int, ...]) -> None:
    """Delete parked rows permanently, by the number that `list` shows."""
    click.echo(f"{rows.discard(ids)} discarded.")


ALL = [status, list_parked, release, discard]

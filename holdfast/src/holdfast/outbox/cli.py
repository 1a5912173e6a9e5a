"""``holdfast outbox``: what waits, and what to do with rows that no broker would take."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from holdfast.outbox import store


class Group(click.Group):
    """Turns an error of the database into one line with the next step."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except DBAPIError as error:
            raise click.ClickException(
                f"The database says: {str(error.orig).strip().splitlines()[0]}. Check the URL; a missing table is made "
                "by your migrations or by holdfast.outbox.metadata.create_all(engine)."
            ) from error


def open_engine(url: str) -> Engine:
    """Open the database of the outbox.

    Args:
        url: SQLAlchemy URL.

    Raises:
        click.BadParameter: it is none, or names another database than PostgreSQL and SQLite.
    """
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError:
        backend = ""
    if backend not in {"postgresql", "sqlite"}:  # the URL itself is not shown: it holds a password
        raise click.BadParameter(
            "The URL of the outbox is of neither form: postgresql+psycopg://user:password@host/name, sqlite:///file"
        )
    wait = {"timeout": 30} if backend == "sqlite" else {}  # seconds that a writer waits for another one
    return create_engine(url, pool_pre_ping=True, connect_args=wait)  # a restarted server costs only a reconnect


@click.group(cls=Group)
@click.option("--database-url", envvar="HOLDFAST_OUTBOX_URL", required=True, help="SQLAlchemy URL of the outbox.")
@click.pass_context
def command(context: click.Context, database_url: str) -> None:
    """Show the state of the outbox; release or discard parked rows."""
    context.obj = open_engine(database_url)


@command.command()
@click.pass_obj
def status(engine: Engine) -> None:
    """Print the number of waiting and parked rows, as JSON."""
    with engine.connect() as connection:
        click.echo(json.dumps(asdict(store.backlog(connection)), default=str))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, messages included.")
@click.pass_obj
def list_parked(engine: Engine, *, as_json: bool) -> None:
    """Show the parked rows."""
    with engine.connect() as connection:
        for row in store.parked(connection):
            if as_json:
                click.echo(json.dumps(asdict(row) | {"workflow": json.loads(row.workflow)}, default=str))
            else:
                click.echo(
                    f"{row.id}  {row.task_id}  {row.task}  {row.attempts} attempts  {row.parked_at}  {row.error}"
                )


@command.command()
@click.argument("ids", nargs=-1, type=int, required=True)
@click.pass_obj
def release(engine: Engine, ids: tuple[int, ...]) -> None:
    """Let the relay try parked rows again, by the number that `list` shows."""
    with engine.begin() as connection:
        click.echo(f"{store.release(connection, ids)} released.")


@command.command()
@click.argument("ids", nargs=-1, type=int, required=True)
@click.confirmation_option(prompt="The tasks in these rows will never run. Discard them?")
@click.pass_obj
def discard(engine: Engine, ids: tuple[int, ...]) -> None:
    """Delete parked rows permanently, by the number that `list` shows."""
    with engine.begin() as connection:
        click.echo(f"{store.discard(connection, ids)} discarded.")

"""``holdfast relay`` and ``holdfast outbox``, for an outbox that SQLAlchemy opens."""

from __future__ import annotations

import click

from holdfast import extras
from holdfast.dead import load_app
from holdfast.outbox import commands

with extras.needed():
    from sqlalchemy import Engine, create_engine, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError

    from holdfast.outbox.relay import serve
    from holdfast.outbox.store import EngineRows


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
    context.obj = EngineRows(open_engine(database_url))


for _one in commands.ALL:
    command.add_command(_one)


@click.command()
@click.option(
    "-A", "--app", "path", envvar="HOLDFAST_APP", show_envvar=True, required=True, help="The Celery application."
)
@click.option(
    "--database-url",
    envvar="HOLDFAST_OUTBOX_URL",
    required=True,
    help="SQLAlchemy URL of the database with the outbox; `ps` does not show it when given as HOLDFAST_OUTBOX_URL.",
)
@click.option("--metrics", default="127.0.0.1:9539", show_default=True, help="Address of /metrics and /healthz.")
@click.option("--batch", default=500, show_default=True, type=click.IntRange(1), help="Rows per pass.")
@click.option(
    "--lease", default=60.0, show_default=True, help="Seconds until the rows of a killed relay are due again."
)
@click.option("--poll", default=0.5, show_default=True, help="Seconds between two checks of an empty outbox.")
def relay(*, path: str, database_url: str, metrics: str, batch: int, lease: float, poll: float) -> None:
    """Publish the tasks that are in the outbox; SIGTERM ends it after the pass that has begun."""
    app = load_app(path)
    serve(app, EngineRows(open_engine(database_url)), metrics, batch=batch, lease=lease, poll=poll)

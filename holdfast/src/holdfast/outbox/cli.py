"""``holdfast relay`` and ``holdfast outbox``, for an outbox that SQLAlchemy opens."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from holdfast import extras
from holdfast.operators import load_app
from holdfast.outbox import commands

with extras.needed():
    from sqlalchemy import Engine, create_engine, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    from holdfast.columns import MYSQL
    from holdfast.outbox.relay import BATCH, LEASE, METRICS, POLL, serve
    from holdfast.outbox.store import EngineRows


_DRIVERS = {  # of each database, the best known first: what SQLAlchemy calls it, and the package
    "postgresql": {"psycopg": "psycopg", "psycopg2": "psycopg2", "pg8000": "pg8000"},
    "mysql": {"pymysql": "pymysql", "mysqldb": "mysqlclient", "mysqlconnector": "mysql-connector-python"},
    "mariadb": {"pymysql": "pymysql", "mysqldb": "mysqlclient", "mariadbconnector": "mariadb"},
    "sqlite": {"pysqlite": "sqlite3"},
}


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
        url: SQLAlchemy URL. One with a driver for asyncio, as the application may have it, is opened with a driver that
            is installed and needs no event loop.

    Raises:
        click.BadParameter: it is none, names another database than these, or there is no driver for it.
    """
    try:
        parsed = make_url(url)
        backend, dialect = parsed.get_backend_name(), parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        backend = ""
    if backend not in _DRIVERS:  # the URL itself is not shown: it holds a password
        raise click.BadParameter(
            "The URL of the outbox is of none of these forms: postgresql+psycopg://user:password@host/name, "
            "mysql+pymysql://user:password@host/name, sqlite:///file"
        )
    options: dict[str, Any] = {"pool_pre_ping": True}  # a restarted server costs only a reconnect
    if backend == "sqlite":
        options["connect_args"] = {"timeout": 30}  # seconds that a writer waits for another one
    if backend in MYSQL:
        options["isolation_level"] = "READ COMMITTED"  # else a claim locks rows and gaps that it only looked at
    known = _DRIVERS[backend]
    urls = [parsed.set(drivername=f"{backend}+{name}") for name in known] if dialect.is_async else [parsed]
    for candidate in urls:
        with suppress(ModuleNotFoundError):
            return create_engine(candidate, **options)
    raise click.BadParameter(
        f"The driver that the URL of the outbox names ({dialect.driver}) is not installed"
        f"{' for use without asyncio' if dialect.is_async else ''}. Install one of {', '.join(known.values())}."
    )


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
@click.option("--metrics", default=METRICS, show_default=True, help="Address of /metrics and /healthz.")
@click.option("--batch", default=BATCH, show_default=True, help="Rows per pass.")
@click.option(
    "--lease", default=LEASE, show_default=True, help="Seconds until the rows of a killed relay are due again."
)
@click.option("--poll", default=POLL, show_default=True, help="Seconds between two checks of an empty outbox.")
def relay(*, path: str, database_url: str, metrics: str, batch: int, lease: float, poll: float) -> None:
    """Publish the tasks that are in the outbox; SIGTERM ends it after the pass that has begun."""
    app = load_app(path)
    serve(app, EngineRows(open_engine(database_url)), metrics, batch=batch, lease=lease, poll=poll)

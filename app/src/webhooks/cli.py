"""The ``webhooks`` command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from celery.exceptions import ImproperlyConfigured
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from webhooks import config, db, intake, receiver, sender
from webhooks.app import app
from webhooks.models import DEAD, DELIVERED, PENDING, Batch, Delivery, Effect, Report, now

if TYPE_CHECKING:
    from collections.abc import Iterable


class Main(click.Group):
    """Turns the errors of the environment and of the servers into one line with the next step."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except ImproperlyConfigured as error:
            raise click.ClickException(str(error)) from error
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise click.ClickException(
                f"The database says: {cause}. Is WEBHOOKS_DATABASE_URL right? New databases need: webhooks init-db"
            ) from error


@click.group(cls=Main)
def main() -> None:
    """Deliver webhooks: at least once, or dead where you can see it."""


@main.command("init-db")
def init_db() -> None:
    """Create the tables that are missing."""
    db.create_tables()
    click.echo("The tables are there.")


@main.command()
@click.argument("url")
@click.argument("payload")
@click.option("--queue", help="Default: the first of the configured queues.")
@click.option("--delay", default=0, type=click.IntRange(min=0), help="Seconds until the first attempt.")
@click.option("--wait", default=0, type=click.IntRange(min=0), help="Wait at most this many seconds for the outcome.")
def send(url: str, payload: str, queue: str | None, delay: int, wait: int) -> None:
    """Deliver PAYLOAD (JSON) to URL and print the delivery's id."""
    try:
        request = parse({"url": url, "payload": _json(payload), "queue": queue})
    except ValueError as error:
        raise click.ClickException(f"{error}") from error
    rows = intake.accept([request], delay=delay)
    click.echo(rows[0].id)
    if wait:
        _report_outcome(_wait(rows, wait))


@main.command("send-many")
@click.argument("file", type=click.File("rb"))
@click.option("--queue", help="For lines that name none. Default: the first of the configured queues.")
@click.option("--wait", default=0, type=click.IntRange(min=0), help="Wait at most this many seconds for the outcome.")
def send_many(file: BinaryIO, queue: str | None, wait: int) -> None:
    """Deliver the lines of FILE as one batch with a report.

    A line is a JSON object with "url", "payload" and, if wanted, "queue". A line that is none is named and left out,
    the others are delivered, and the exit status is 1.
    """
    if queue is not None:
        check_queue(queue)
    requests, wrong = [], 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            requests.append(parse({"queue": queue} | _object(line.decode())))
        except ValueError as error:
            wrong += 1
            click.echo(f"{file.name}, line {number}: {error}", err=True)
    if requests:
        rows = intake.accept(requests, batch=True)
        click.echo(f"batch {rows[0].batch_id}: {len(rows)} accepted")
        if wait:
            _report_outcome(_wait(rows, wait))
    if wrong:
        raise click.ClickException(f"{wrong} lines were left out; correct them and send them again.")
    if not requests:
        raise click.ClickException(f"{file.name} has no lines.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(*, as_json: bool) -> None:
    """Show how many deliveries are in which state."""
    with db.transaction() as session:
        counted = session.execute(select(Delivery.status, func.count()).group_by(Delivery.status))
        found = {state: count for state, count in counted}  # noqa: C416 - dict() does not know that rows are pairs
        oldest = session.scalar(select(func.min(Delivery.created_at)).where(Delivery.status == PENDING))
        effects = session.scalar(select(func.count()).select_from(Effect))
    content = {state: found.get(state, 0) for state in (PENDING, DELIVERED, DEAD)} | {
        "effects": effects,
        "oldest_pending_seconds": round((now() - oldest).total_seconds()) if oldest else None,
    }
    if as_json:
        click.echo(json.dumps(content))
    else:
        _print_table("deliveries", content)


@main.command()
@click.argument("batch_id", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(batch_id: str | None, *, as_json: bool) -> None:
    """Show the report of a batch; of the last batch when none is named."""
    with db.transaction() as session:
        if batch_id is None:
            batch_id = session.scalar(select(Batch.id).order_by(Batch.created_at.desc()).limit(1))
        if batch_id is None or session.get(Batch, batch_id) is None:
            raise click.ClickException("There is no such batch. webhooks send-many prints the id of the one it made.")
        written = session.get(Report, batch_id)
    if written is None:
        raise click.ClickException(f"Batch {batch_id} has no report yet: its deliveries have not all ended.")
    content = {
        name: getattr(written, name) for name in ("batch_id", "total", "delivered", "dead", "pending", "attempts")
    } | {"written_at": written.written_at.isoformat()}
    if as_json:
        click.echo(json.dumps(content))
    else:
        _print_table("report", content)


@main.command("receiver")
@click.option("--host", default="127.0.0.1", show_default=True, envvar="WEBHOOKS_RECEIVER_HOST", help="Listen here.")
@click.option("--port", default=8025, show_default=True, envvar="WEBHOOKS_RECEIVER_PORT", type=click.IntRange(0, 65535))
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    default="receiver.jsonl",
    show_default=True,
    envvar="WEBHOOKS_RECEIVER_LOG",
    help="File that every request is appended to.",
)
def run_receiver(host: str, port: int, log: Path) -> None:
    """Run a receiver to deliver to; it can be told to fail (see docs/explanation/sample-application.md)."""
    try:
        server = receiver.Receiver((host, port), receiver.Log(log))
    except OSError as error:
        raise click.ClickException(f"Cannot listen on {host}:{port} or write {log}: {error}") from error
    click.echo(f"Receiving on http://{host}:{server.server_port}, log in {log}.")
    server.serve_forever()


def check_queue(queue: str) -> str:
    """Return the name of a queue that exists.

    Raises:
        click.ClickException: it does not.
    """
    if queue not in app.amqp.queues:
        raise click.ClickException(f"There is no queue {queue!r}; allowed: {', '.join(sorted(app.amqp.queues))}.")
    return queue


def parse(line: dict[str, Any]) -> intake.Request:
    """Return what a line asks for.

    Raises:
        ValueError: a field is missing, wrong or unknown; the message says what is allowed.
    """
    unknown = line.keys() - {"url", "payload", "queue"}
    if unknown:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}; allowed: url, payload, queue")
    if "payload" not in line:
        raise ValueError("payload is missing; it can be any JSON value")
    url = line.get("url")
    if not isinstance(url, str):
        raise ValueError("url is missing or no text; it must be an address such as https://example.org/hook")  # noqa: TRY004 - a wrong line is a ValueError whatever is wrong
    try:
        sender.check_url(url, plain=bool(config.load().allowed_networks))
    except sender.RefusedError as error:
        raise ValueError(str(error)) from error
    queue = line.get("queue") or app.conf.task_default_queue
    if queue not in app.amqp.queues:
        raise ValueError(f"there is no queue {queue!r}; allowed: {', '.join(sorted(app.amqp.queues))}")
    return intake.Request(url=url, payload=line["payload"], queue=queue)


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # Python would take it; databases and receivers do not


def _object(line: str) -> dict[str, Any]:
    value = _json(line)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a wrong line is a ValueError whatever is wrong
    return value


def _wait(rows: Iterable[Delivery], seconds: int) -> dict[str, int]:
    """Watch the deliveries until all have ended or ``seconds`` have passed; return the count of each state."""
    ids = [row.id for row in rows]
    deadline = time.monotonic() + seconds
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("delivered", total=len(ids))
        while True:
            counts = _states(ids)
            progress.update(bar, completed=len(ids) - counts[PENDING])
            if not counts[PENDING] or time.monotonic() >= deadline:
                return counts
            time.sleep(0.2)


def _states(ids: list[str]) -> dict[str, int]:
    counts = dict.fromkeys((PENDING, DELIVERED, DEAD), 0)
    with db.transaction() as session:
        for start in range(0, len(ids), 500):  # databases limit the length of a list in a query
            query = select(Delivery.status, func.count()).where(Delivery.id.in_(ids[start : start + 500]))
            for state, count in session.execute(query.group_by(Delivery.status)):
                counts[state] += count
    return counts


def _report_outcome(counts: dict[str, int]) -> None:
    click.echo(f"{counts[DELIVERED]} delivered, {counts[DEAD]} dead, {counts[PENDING]} pending")
    if counts[DEAD] or counts[PENDING]:
        raise click.ClickException("Not all were delivered; see: webhooks status, holdfast dead list")


def _print_table(title: str, content: dict[str, Any]) -> None:
    table = Table(title=title, show_header=False)
    for name, value in content.items():
        table.add_row(name.replace("_", " "), "-" if value is None else str(value))
    Console().print(table)

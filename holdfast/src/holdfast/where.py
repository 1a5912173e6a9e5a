"""``holdfast where``: what each place that may know a task says of it, and what that means.

The broker has no index of its messages, and looking into a quorum queue counts as a delivery. So a task that waits in a
queue or for its time is not found by its id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from celery.states import READY_STATES

from holdfast.dead import open_office
from holdfast.operators import PATIENCE, load_app, operator_urls

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection

    from holdfast.outbox.rows import Rows

Found: TypeAlias = dict[str, Any]
Look: TypeAlias = Callable[[], "Found | None"]

REFUSED = "the broker refuses this login"
OPERATOR = """\
next:    ask with the login of operators: load login-operator.env, or set HOLDFAST_OPERATOR_URL to the
         HOLDFAST_BROKER_URL of that file (local stack: docker compose run --rm passwords --laptop operator)"""
WORKERS_ANSWER = 2.0  # seconds; Celery waits one, and a worker that loads the machine answers later


@dataclass(frozen=True)
class Story:
    """What is known of a task.

    Attributes:
        task_id: its id.
        places: what each place that was asked says; None where the task is not.
        silent: the reason for each place that could not be asked.
    """

    task_id: str
    places: dict[str, Found | None]
    silent: dict[str, str]

    @property
    def found(self) -> bool:
        """Whether a place knows the task."""
        return any(self.places.values())

    @property
    def meaning(self) -> str:
        """What the places say together, and the next step where an operator has one."""
        for place, meaning in _MEANINGS.items():
            if found := self.places.get(place):
                return meaning(self.task_id, found)
        if self.silent:
            return "not found, but not every place could be asked: " + ", ".join(self.silent)
        return (
            "not found: it waits in a queue for a free worker, or for its time, or it ran and its result is ignored or "
            "no longer stored, or no task with this id was ever acknowledged"
        )


def _in_outbox(_: str, row: Found) -> str:
    if row["parked_at"]:
        return f"given up by the relay ({row['error']}); next: holdfast outbox release {row['id']}"
    return f"waits in the outbox since {row['created_at']}; the relay publishes it"


def _on_worker(_: str, at: Found) -> str:
    return f"{at['state']} on {at['worker']}" + (f" since {at['since']}" if at["since"] else "")


def _dead_letter(task_id: str, letter: Found) -> str:
    queue = letter["in"]
    command = f"holdfast dead -A APP --queue {queue} replay --task-id {task_id}"
    return f"in the queue {queue} ({letter['reason']}); next: {command}"


def _with_result(_: str, result: Found) -> str:
    if result["state"] in READY_STATES:
        return f"ended with {result['state']}" + (f" at {result['ended']}" if result["ended"] else "")
    return f"its last stored state is {result['state']}; it waits for a worker, or for its next attempt"


# What can still change comes first: a dead letter has the result of its last attempt, too.
_MEANINGS: dict[str, Callable[[str, Found], str]] = {
    "outbox": _in_outbox,
    "workers": _on_worker,
    "dead": _dead_letter,
    "unrouted": _dead_letter,
    "result": _with_result,
}


def tell(task_id: str, looks: Mapping[str, Look]) -> Story:
    """Ask every place; one that fails keeps no other from being asked.

    Args:
        task_id: the task.
        looks: for each place what asks it: it returns None where the task is not.
    """
    places: dict[str, Found | None] = {}
    silent: dict[str, str] = {}
    for place, look in looks.items():
        try:
            places[place] = look()
        except Exception as error:  # noqa: BLE001 - a client library of any kind
            text = error.format_message() if isinstance(error, click.ClickException) else str(error)
            short = (text.strip() or type(error).__name__).splitlines()[0]
            silent[place] = REFUSED if "ACCESS_REFUSED" in text else short
    return Story(task_id, places, silent)


def looks(app: Celery, task_id: str, rows: Rows | None) -> dict[str, Look]:
    """Return what asks each place.

    Args:
        app: the application.
        task_id: the task.
        rows: the outbox; None when the application has none.
    """
    outbox: dict[str, Look] = {"outbox": lambda: _outbox(rows, task_id)} if rows else {}
    return outbox | {
        "workers": lambda: _workers(app, task_id),
        "result": lambda: _result(app, task_id),
        "dead": lambda: _letter(app, "dead", task_id),
        "unrouted": lambda: _letter(app, "unrouted", task_id),
    }


def _outbox(rows: Rows, task_id: str) -> Found | None:
    row = rows.find(task_id)
    if row is None:
        return None
    return {name: value for name, value in asdict(row).items() if name not in {"workflow", "task_id"}}


def _workers(app: Celery, task_id: str) -> Found | None:
    with _connection(app) as connection:
        answers = app.control.inspect(timeout=WORKERS_ANSWER, connection=connection).query_task(task_id)
    for worker, tasks in (answers or {}).items():
        if task_id in tasks:
            state, request = tasks[task_id]
            begun = request.get("time_start")
            since = datetime.fromtimestamp(begun, timezone.utc) if begun else None
            return {"worker": worker, "state": state, "since": since, "task": request.get("name")}
    return None


def _result(app: Celery, task_id: str) -> Found | None:
    meta = app.backend.get_task_meta(task_id)
    if meta["status"] == "PENDING":  # also what Celery says of a task that it does not know
        return None
    kept = {name: meta.get(name) for name in ("name", "worker", "queue", "retries") if meta.get(name) is not None}
    return {"state": meta["status"], "ended": meta.get("date_done"), **kept}


def _letter(app: Celery, queue: str, task_id: str) -> Found | None:
    with open_office(app, queue) as office:
        found = next((letter for letter in office.letters() if letter.task_id == task_id), None)
        return {"in": queue} | found.summary() if found else None


def _connection(app: Celery) -> Connection:
    """Return a connection with the login of operators, for an error within seconds."""
    connection = app.connection_for_write(operator_urls())
    connection.ensure_connection(**PATIENCE)
    return connection


def show(story: Story) -> str:
    """Return a story as text: one line for each place, and what they say together."""
    lines = [f"task {story.task_id}"]
    for place, found in story.places.items():
        said = "  ".join(f"{key}={value}" for key, value in (found or {}).items() if value is not None)
        lines.append(f"  {place:<9} {said or 'not there'}")
    lines += [f"  {place:<9} could not be asked: {reason}" for place, reason in story.silent.items()]
    lines.append(f"The task: {story.meaning}.")
    return "\n".join([*lines, OPERATOR] if REFUSED in story.silent.values() else lines)


def report(app: Celery, task_id: str, rows: Rows | None, *, as_json: bool) -> int:
    """Print the story of a task.

    Args:
        app: the application.
        task_id: the task.
        rows: the outbox; None when the application has none.
        as_json: print one JSON object.

    Returns:
        0: a place knows it; 1: none does; 2: none does, and a place could not be asked.
    """
    story = tell(task_id, looks(app, task_id, rows))
    if as_json:
        click.echo(json.dumps(asdict(story) | {"found": story.found, "meaning": story.meaning}, default=str))
    else:
        click.echo(show(story))
    if story.found:
        return 0
    return 2 if story.silent else 1


@click.command()
@click.argument("task_id")
@click.option(
    "-A", "--app", "path", envvar="HOLDFAST_APP", show_envvar=True, required=True, help="The Celery application."
)
@click.option("--database-url", envvar="HOLDFAST_OUTBOX_URL", show_envvar=True, help="SQLAlchemy URL of the outbox.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def command(context: click.Context, task_id: str, path: str, database_url: str | None, *, as_json: bool) -> None:
    """Show what the outbox, the workers, the result store and the dead letters know of a task.

    Exit code 0: a place knows it; 1: none does; 2: none does, and a place could not be asked.

    HOLDFAST_OPERATOR_URL, if it is set, names the brokers with a login that may read dead letters and query workers;
    otherwise the application's own login needs the right. Without --database-url no outbox is asked.
    """
    rows: Rows | None = None
    if database_url:
        from holdfast.outbox.cli import open_engine  # noqa: PLC0415 - needs the extra `outbox`
        from holdfast.outbox.store import EngineRows  # noqa: PLC0415 - the same

        rows = EngineRows(open_engine(database_url))
    context.exit(report(load_app(path), task_id, rows, as_json=as_json))

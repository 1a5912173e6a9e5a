"""After the load: wait until all queues are empty, then read what is left and what was achieved."""

from __future__ import annotations

import time
from itertools import batched
from typing import TYPE_CHECKING, Any

import httpx
from kombu.exceptions import ContentDisallowed, DecodeError
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from drill import ledger, tasks
from drill.judge.history import ACKNOWLEDGED, build
from drill.targets import TargetError
from drill.targets.stack import POLL
from holdfast import inbox
from holdfast.dead import open_office
from holdfast.outbox import table
from webhooks import db

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from drill.judge.history import History
    from drill.ledger import Writer
    from drill.targets.stack import Stack

QUIET = 7.0  # seconds that everything must have been empty: the broker counts every 5, and delays are chains of queues
LOOK = 20.0  # seconds between two looks into the ledger, above what poison takes to its end


def wait_empty(stack: Stack, folder: Path, timeout: float, note: Callable[[str], None]) -> list[str]:
    """Wait until no task of the run is in a queue or in the outbox.

    Empty queues say so. Where messages of others stay (a countdown of hours, say), the ledger does, once every
    acknowledged task of the run has ended.

    Args:
        stack: the stack.
        folder: of the run's ledger.
        timeout: seconds without progress; a machine that is busy may take as long as it needs while the rest shrinks.
        note: told what is left, while waiting.

    Returns:
        What is left, in words; empty when nothing is.
    """
    deadline = time.monotonic() + timeout
    quiet_since: float | None = None
    look = time.monotonic() + LOOK
    left, least = "nothing was looked at", float("inf")
    while time.monotonic() < deadline:
        try:
            depth = stack.depth() | {"outbox": _outbox_rows()}
            counts = {name: depth[name] for name in ("ready", "unacked", "delayed", "outbox")}
            left = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
            if sum(counts.values()) < least:
                least, deadline = sum(counts.values()), time.monotonic() + timeout
        except (TargetError, httpx.HTTPError, KeyError, OperationalError) as error:
            left = str(error)
        note(left or "empty")
        if left and time.monotonic() >= look:
            look = time.monotonic() + LOOK
            if _all_ended(stack, folder):
                return []
        quiet_since = None if left else quiet_since or time.monotonic()
        if quiet_since is not None and time.monotonic() - quiet_since >= QUIET:
            return []
        time.sleep(POLL)
    return [f"the queues did not run empty, and no further for {timeout:g} s: {left}"]


def _all_ended(stack: Stack, folder: Path) -> bool:
    """Whether the ledger says that every acknowledged task has ended; False while it cannot be read."""
    try:
        stack.target.fetch_ledger(folder)
    except TargetError:
        return False
    return not unfinished(build(ledger.read_all(folder, folder.name), folder.name))


def unfinished(history: History) -> set[str]:
    """Return the acknowledged tasks that have not run to their end and are no poison."""
    done = {i for i, runs in history.runs.items() if any(run.end is not None and run.final for run in runs)}
    promised = {i for i, outcome in history.outcomes.items() if outcome.result in ACKNOWLEDGED}
    return {i for i in promised - done if not history.attempts[i].poison}


def collect(stack: Stack, book: Writer, folder: Path, run: str) -> None:
    """Note what lies in the parking queues, the results and the effects of a run."""
    for queue in stack.parking:
        _empty(stack, book, queue, run)
    stack.target.fetch_ledger(folder)
    history = build(ledger.read_all(folder, run), run)
    poison = {i for i, attempt in history.attempts.items() if attempt.poison}
    done = [i for i, runs in history.runs.items() if any(r.end is not None and r.final for r in runs)]
    _note_results(stack, book, [i for i in done if i not in poison])
    _note_effects(book, run, [i for i in done if i in history.attempts and history.attempts[i].task == "effect"])


def prepare_tables() -> None:
    """Create the tables that the drill's tasks write to."""
    with db.transaction() as session:
        for metadata in (tasks.metadata, inbox.metadata, table.metadata):
            metadata.create_all(session.connection())


def _outbox_rows() -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(table.outbox)) or 0


def _empty(stack: Stack, book: Writer, queue: str, run: str) -> None:
    """Note the run's messages of a queue and take them out; all others stay."""
    with open_office(stack.app, queue, stack.operator_url) as office:
        for letter in office.letters():
            task_id = letter.task_id
            if tasks.run_of(task_id) == run:
                reason = str(letter.death.get("reason", ""))
                book.commit(book.append(queue, id=task_id, reason=reason))
                office.channel.basic_ack(letter.raw.delivery_tag)


def _note_results(stack: Stack, book: Writer, ids: list[str]) -> None:
    backend: Any = stack.app.backend
    if stack.app.conf.task_ignore_result:  # there are none
        return
    for some in batched(ids, 500):
        for task_id, raw in zip(some, backend.mget([backend.get_key_for_task(i) for i in some]), strict=True):
            book.append("result", id=task_id, state=_state(backend, raw) if raw else None)


def _state(backend: Any, raw: bytes) -> str | None:
    """Return the state in a stored result, None if the application may not or cannot read it."""
    try:
        return str(backend.decode(raw)["status"])
    except (ContentDisallowed, DecodeError):
        return None


def _note_effects(book: Writer, run: str, ids: list[str]) -> None:
    number = tasks.effects.c.task_id
    with db.transaction() as session:
        query = select(number, func.count()).where(number.startswith(f"{run}.", autoescape=True)).group_by(number)
        found = {task_id: count for task_id, count in session.execute(query)}  # noqa: C416 - rows are no pairs to mypy
    for task_id in ids:
        book.append("effect", id=task_id, count=found.get(task_id, 0))

"""The rows of the outbox: put in with the business data, claimed by a relay, gone when the broker has the task.

Servers skip rows that another relay is claiming (PostgreSQL, MySQL from 8.0.1, MariaDB from 10.6); SQLite lets one
writer in.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

from sqlalchemy import Connection, case, delete, false, func, insert, or_, select, update
from sqlalchemy.exc import DBAPIError

from holdfast.outbox.eager import run_after_commit
from holdfast.outbox.rows import RELEASED, Backlog, Failure, Row, now
from holdfast.outbox.table import outbox
from holdfast.outbox.workflow import Workflow, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from celery.canvas import Signature
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from holdfast.publisher.message import Message

_COLUMNS = [outbox.c[name] for name in Row.__dataclass_fields__]
_INSERT = insert(outbox)  # one statement for all rows: with its values in it, each would be put together anew


def enqueue(session: Session | Connection, signature: Signature[Any]) -> str:
    """Store a task, chain, group or chord; it is published some moments after the transaction is committed.

    The ids of all its tasks are decided now. Nothing is sent, and nothing is asked of the broker or the result store.
    With an ``AsyncSession``: ``await holdfast.aio.enqueue(session, signature)``. With ``task_always_eager``, in tests,
    nothing is stored: it runs in this thread after the commit, and a rollback drops it.

    Args:
        session: the session or connection whose transaction holds the business data.
        signature: what to publish. A chord or group is one row: all of it is published, or it stays.

    Returns:
        The id of the result: of the task, of a chain's last task, of a chord's body, or of the group.

    Raises:
        kombu.exceptions.EncodeError: an argument cannot be serialised.
        celery.exceptions.QueueNotFound: the signature names an unknown queue.
        TypeError: the arguments do not fit the task; the session is one for asyncio; or ``task_always_eager`` is set
            and ``session`` is a connection.
        ValueError: the signature has no task.
    """
    if iscoroutinefunction(session.execute):  # nobody would await it: the row would not be written
        raise TypeError(
            f"{type(session).__name__} is for asyncio; write: await holdfast.aio.enqueue(session, signature)"
        )
    if signature.app.conf.task_always_eager:
        return run_after_commit(session, signature)
    return put(session, record(signature))


def put(session: Session | Connection, workflow: Workflow) -> str:
    """Store a recorded workflow and return the id of its result."""
    row = {"task_id": workflow.task_id, "task": workflow.task, "workflow": workflow.dumps(), "created_at": now()}
    session.execute(_INSERT, row)
    return workflow.task_id


def put_message(session: Session | Connection, message: Message) -> str:
    """Store a single finished message and return the id of its task."""
    return put(session, Workflow(message.task_id or "", [message]))


def claim(connection: Connection, limit: int, lease: float) -> list[Row]:
    """Take rows that are due, oldest first; no other relay gets them before the lease ends.

    Args:
        connection: in a transaction that the caller commits before it publishes.
        limit: how many rows at most.
        lease: seconds.
    """
    if connection.dialect.name == "sqlite":
        connection.execute(delete(outbox).where(false()))  # takes the write lock: a read would let another relay in
    start = now()
    due = (
        select(*_COLUMNS)
        .where(outbox.c.parked_at.is_(None), or_(outbox.c.not_before.is_(None), outbox.c.not_before <= start))
        .order_by(outbox.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)  # SQLAlchemy leaves this out on SQLite
    )
    rows = [Row(*row) for row in connection.execute(due)]
    if rows:
        taken = update(outbox).where(outbox.c.id.in_([row.id for row in rows]))
        connection.execute(taken.values(not_before=start + timedelta(seconds=lease)))
    return rows


def remove(connection: Connection, ids: Iterable[int]) -> None:
    """Delete rows whose messages the broker has acknowledged."""
    connection.execute(delete(outbox).where(outbox.c.id.in_(list(ids))))


def postpone(connection: Connection, row: Row, failure: Failure) -> None:
    """Keep a row whose messages were not all acknowledged; a row that is gone or parked meanwhile stays so."""
    connection.execute(update(outbox).where(outbox.c.id == row.id).values(failure.changes(row)))


def backlog(connection: Connection) -> Backlog:
    """Count the rows."""
    parked = outbox.c.parked_at.is_not(None)
    counts = select(  # MySQL has no FILTER
        func.count(case((~parked, 1))), func.min(case((~parked, outbox.c.created_at))), func.count(case((parked, 1)))
    )
    return Backlog(*connection.execute(counts).one())


def parked(connection: Connection) -> list[Row]:
    """Return the parked rows, oldest first."""
    query = select(*_COLUMNS).where(outbox.c.parked_at.is_not(None)).order_by(outbox.c.id)
    return [Row(*row) for row in connection.execute(query)]


def find(connection: Connection, task_id: str) -> Row | None:
    """Return the row whose workflow has this id; None when there is none."""
    found = connection.execute(select(*_COLUMNS).where(outbox.c.task_id == task_id)).first()
    return Row(*found) if found else None


def release(connection: Connection, ids: Iterable[int]) -> int:
    """Let parked rows be tried again; return how many there were."""
    return connection.execute(update(outbox).where(_is_parked(ids)).values(RELEASED)).rowcount


def discard(connection: Connection, ids: Iterable[int]) -> int:
    """Delete parked rows for good; return how many there were."""
    return connection.execute(delete(outbox).where(_is_parked(ids))).rowcount


def _is_parked(ids: Iterable[int]) -> Any:
    return outbox.c.parked_at.is_not(None) & outbox.c.id.in_(list(ids))


@dataclass(frozen=True, slots=True)
class EngineRows:
    """The :class:`holdfast.outbox.rows.Rows` of a database that SQLAlchemy opens."""

    engine: Engine

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return (DBAPIError,)

    def claim(self, limit: int, lease: float) -> list[Row]:
        with self.engine.begin() as connection:
            return claim(connection, limit, lease)

    def remove(self, ids: Iterable[int]) -> None:
        with self.engine.begin() as connection:
            remove(connection, ids)

    def postpone(self, failures: Sequence[tuple[Row, Failure]]) -> None:
        with self.engine.begin() as connection:
            for row, failure in failures:
                postpone(connection, row, failure)

    def backlog(self) -> Backlog:
        with self.engine.connect() as connection:
            return backlog(connection)

    def parked(self) -> list[Row]:
        with self.engine.connect() as connection:
            return parked(connection)

    def find(self, task_id: str) -> Row | None:
        with self.engine.connect() as connection:
            return find(connection, task_id)

    def release(self, ids: Iterable[int]) -> int:
        with self.engine.begin() as connection:
            return release(connection, ids)

    def discard(self, ids: Iterable[int]) -> int:
        with self.engine.begin() as connection:
            return discard(connection, ids)

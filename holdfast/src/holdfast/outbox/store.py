"""The rows of the outbox: put in with the business data, claimed by a relay, gone when the broker has the task.

A claim is a lease, not a lock: it moves ``not_before`` into the future in a transaction of its own, so that no
transaction is open while a relay talks to the broker. The rows of a killed relay are due again when the lease ends.
One statement claims on both databases: PostgreSQL skips rows that another relay is claiming, SQLite lets one writer in.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from holdfast.outbox.table import now, outbox
from holdfast.outbox.workflow import Workflow, record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from celery.canvas import Signature
    from sqlalchemy.orm import Session

    from holdfast.publisher.message import Message

OUTAGE_WAIT = 15.0  # seconds; longest wait of a row that only met an outage: all is published soon after its end
REFUSED_WAIT = 300.0  # seconds; longest wait of a row that was refused itself
PARK_AFTER = 10  # refusals, about a quarter of an hour: long enough for a queue that an operator forgot to create


@dataclass(frozen=True, slots=True)
class Row:
    """A row as a relay or an operator sees it; the columns of :data:`holdfast.outbox.table.outbox`."""

    id: int
    task_id: str
    task: str
    workflow: str
    created_at: datetime
    attempts: int
    refusals: int
    error: str | None
    parked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row stays.

    Attributes:
        error: what went wrong.
        refused: the reason lies in the row, so that a healthy broker would refuse it again.
        rest: the workflow without the messages that were acknowledged; None when none was.
    """

    error: str
    refused: bool
    rest: str | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits.

    Attributes:
        waiting: rows to publish.
        oldest: when the oldest of them was enqueued, None without any.
        parked: rows given up until an operator releases them.
    """

    waiting: int
    oldest: datetime | None
    parked: int


_COLUMNS = [outbox.c[name] for name in Row.__dataclass_fields__]


def enqueue(session: Session | Connection, signature: Signature[Any]) -> str:
    """Store a task, chain, group or chord; it is published some moments after the transaction is committed.

    The ids of all its tasks are decided now. Nothing is sent, and nothing is asked of the broker or the result store.
    With an ``AsyncSession``: ``await session.run_sync(enqueue, signature)``.

    Args:
        session: the session or connection whose transaction holds the business data.
        signature: what to publish. A chord or group is one row: all of it is published, or it stays.

    Returns:
        The id of the result: of the task, of a chain's last task, of a chord's body, or of the group.

    Raises:
        kombu.exceptions.EncodeError: an argument cannot be serialised.
        celery.exceptions.QueueNotFound: the signature names an unknown queue.
        TypeError: the arguments do not fit the task.
        ValueError: the signature has no task.
    """
    return put(session, record(signature))


def put(session: Session | Connection, workflow: Workflow) -> str:
    """Store a recorded workflow and return the id of its result."""
    session.execute(
        insert(outbox).values(task_id=workflow.task_id, task=workflow.task, workflow=workflow.dumps(), created_at=now())
    )
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
    start = now()
    due = (
        select(outbox.c.id)
        .where(outbox.c.parked_at.is_(None), or_(outbox.c.not_before.is_(None), outbox.c.not_before <= start))
        .order_by(outbox.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)  # SQLAlchemy leaves this out on SQLite
        .cte("due")
    )
    taken = (
        update(outbox)
        .where(outbox.c.id.in_(select(due.c.id)))
        .values(not_before=start + timedelta(seconds=lease))
        .returning(*_COLUMNS)
    )
    return sorted((Row(*row) for row in connection.execute(taken)), key=lambda row: row.id)


def remove(connection: Connection, ids: Iterable[int]) -> None:
    """Delete rows whose messages the broker has acknowledged."""
    connection.execute(delete(outbox).where(outbox.c.id.in_(list(ids))))


def postpone(connection: Connection, row: Row, failure: Failure) -> None:
    """Keep a row whose messages were not all acknowledged; a row that is gone or parked meanwhile stays so."""
    attempts, refusals = row.attempts + 1, row.refusals + failure.refused
    wait = min(REFUSED_WAIT, 2.0**refusals) if failure.refused else min(OUTAGE_WAIT, 2.0 ** min(attempts, 10))
    connection.execute(
        update(outbox)
        .where(outbox.c.id == row.id)
        .values(
            workflow=failure.rest or row.workflow,
            not_before=now() + timedelta(seconds=wait * random.uniform(0.5, 1)),  # noqa: S311 - jitter
            attempts=attempts,
            refusals=refusals,
            error=failure.error,
            parked_at=now() if refusals >= PARK_AFTER else None,
        )
    )


def backlog(connection: Connection) -> Backlog:
    """Count the rows."""
    parked = outbox.c.parked_at.is_not(None)
    counts = select(
        func.count().filter(~parked), func.min(outbox.c.created_at).filter(~parked), func.count().filter(parked)
    )
    return Backlog(*connection.execute(counts).one())


def parked(connection: Connection) -> list[Row]:
    """Return the parked rows, oldest first."""
    query = select(*_COLUMNS).where(outbox.c.parked_at.is_not(None)).order_by(outbox.c.id)
    return [Row(*row) for row in connection.execute(query)]


def release(connection: Connection, ids: Iterable[int]) -> int:
    """Let parked rows be tried again; return how many there were."""
    again = {"parked_at": None, "not_before": None, "refusals": 0}
    return connection.execute(update(outbox).where(_is_parked(ids)).values(again)).rowcount


def discard(connection: Connection, ids: Iterable[int]) -> int:
    """Delete parked rows for good; return how many there were."""
    return connection.execute(delete(outbox).where(_is_parked(ids))).rowcount


def _is_parked(ids: Iterable[int]) -> Any:
    return outbox.c.parked_at.is_not(None) & outbox.c.id.in_(list(ids))

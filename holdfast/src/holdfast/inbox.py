"""Runs an effect once, however often its task runs: the key, the effect and its result are one transaction.

    with Session(engine) as session, session.begin():
        receipt = inbox.once(session, task.request.id, lambda: book(session, order))

The first run books and stores what ``book`` returned; a repeat, after a redelivery or beside the first run, gets that
result and books nothing. An effect outside of the database (a request to another service) can happen twice when the
process dies between the effect and the commit: give the other side the key as its idempotency key.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar, cast

from holdfast import extras, keys

with extras.needed():
    from sqlalchemy import Column, MetaData, Table, delete, false, select, update
    from sqlalchemy.dialects import mysql, postgresql, sqlite

    from holdfast.columns import LONG_TEXT, MYSQL, TABLE, Instant, Key

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

T = TypeVar("T")

metadata = MetaData()
"""For ``create_all``, or for Alembic: ``target_metadata = [Base.metadata, holdfast.inbox.metadata]``."""

inbox = Table(
    "holdfast_inbox",
    metadata,
    Column("key", Key, primary_key=True),
    Column("result", LONG_TEXT, comment="JSON; NULL inside of the transaction that runs the effect"),
    Column("done_at", Instant, nullable=False, index=True, comment="UTC; for prune()"),
    **TABLE,
)

_CLAIM: dict[str, Callable[[], Any]] = {  # by dialect: an insert that waits for a twin, and leaves a stored key alone
    "postgresql": lambda: postgresql.insert(inbox).on_conflict_do_nothing(),
    "sqlite": lambda: sqlite.insert(inbox).on_conflict_do_nothing(),
    # not INSERT IGNORE, which also hides errors; the number of changed rows would not tell whether the key was new
    **dict.fromkeys(MYSQL, lambda: mysql.insert(inbox).on_duplicate_key_update(key=inbox.c.key)),
}


def once(session: Session, key: str | tuple[str, ...], effect: Callable[[], T]) -> T:
    """Run ``effect`` unless it has run for ``key``, and return its result.

    All happens in the transaction of ``session``, which the caller commits: a rollback undoes the key together with
    the effect. A concurrent call with the same key waits until the first one is committed or rolled back, then returns
    the stored result or runs the effect itself; PostgreSQL's ``lock_timeout`` and MySQL's ``innodb_lock_wait_timeout``
    limit that wait. When ``effect`` raises, what it did in the database is undone and the key stays free.

    Args:
        session: with the isolation level ``READ COMMITTED``, which is the default on PostgreSQL; on MySQL and MariaDB
            set ``create_engine(url, isolation_level="READ COMMITTED")``. With their default, MariaDB from 11.6 refuses
            a key that was stored after the transaction's first read (error 1020). Of three or more calls at the same
            time, the first of which is rolled back, they may end some as a deadlock. Both errors undo the transaction:
            retry the task.
        key: what the effect belongs to, usually the task's id; a task with several effects adds the name of the step:
            ``(task.request.id, "invoice")``. At most 255 characters.
        effect: called without arguments; returns a JSON value. A repeat gets that value as JSON gives it back (a tuple
            as a list).

    Returns:
        What this or the first call of ``effect`` returned.

    Raises:
        ValueError: the key is empty, too long or has a NUL, or the inbox does not work on this database.
        TypeError: the key is neither text nor tuple, or the result is no JSON value; the effect is undone.
        Exception: whatever ``effect`` raises.
    """
    name = keys.text(key)
    dialect = session.connection().dialect.name
    if dialect not in _CLAIM:
        raise ValueError(f"the inbox works on {', '.join(_CLAIM)}; this database is {dialect}")
    if dialect == "sqlite":
        # The driver opens a transaction before a change of data, not before a savepoint, whose release would commit.
        session.execute(delete(inbox).where(false()))
    with session.begin_nested():
        session.execute(_CLAIM[dialect]().values(key=name, done_at=datetime.now(timezone.utc)))
        # a locking read sees what a twin has just committed
        stored = session.execute(select(inbox.c.result).where(inbox.c.key == name).with_for_update()).scalar_one()
        if stored is None:
            result = effect()
            session.execute(update(inbox).where(inbox.c.key == name).values(result=json.dumps(result)))
            return result
    return cast("T", json.loads(stored))


def prune(session: Session, older_than: timedelta) -> int:
    """Forget keys, so that the table does not grow for ever.

    Args:
        session: the session; the caller commits.
        older_than: keep at least as long as a copy of a task can turn up: the age of the oldest message in a queue, a
            dead-letter queue or the outbox.

    Returns:
        How many keys were forgotten; a later call with one of them runs its effect again.
    """
    result: Any = session.execute(delete(inbox).where(inbox.c.done_at < datetime.now(timezone.utc) - older_than))
    return int(result.rowcount)

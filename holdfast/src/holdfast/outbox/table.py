"""The outbox table. Alembic adopts it with ``target_metadata = [Base.metadata, holdfast.outbox.metadata]``."""

from __future__ import annotations

from datetime import datetime, timezone

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table, Text, TypeDecorator

from holdfast.outbox.rows import now


class Instant(TypeDecorator[datetime]):
    """A point in time that comes back with its zone from every database; SQLite drops it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: object) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Add the zone that the database dropped."""
        return value.replace(tzinfo=timezone.utc) if value is not None and value.tzinfo is None else value


metadata = MetaData()

outbox = Table(
    "holdfast_outbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, comment="order of enqueueing"),
    Column("task_id", String(255), nullable=False, comment="what enqueue() returned"),
    Column("task", String(255), nullable=False, comment="name of the first task, for people"),
    Column("workflow", Text, nullable=False, comment="JSON: the finished messages, and what a chord needs before them"),
    Column("created_at", Instant, nullable=False, default=now),
    Column("not_before", Instant, comment="claimed by a relay, or waiting after a failure, until then"),
    Column("attempts", Integer, nullable=False, default=0, comment="failed attempts"),
    Column("refusals", Integer, nullable=False, default=0, comment="those that a healthy broker would repeat"),
    Column("error", Text, comment="of the last failed attempt"),
    Column("parked_at", Instant, comment="given up until an operator releases it"),
    sqlite_autoincrement=True,  # without it SQLite gives the number of a deleted last row to the next one
)

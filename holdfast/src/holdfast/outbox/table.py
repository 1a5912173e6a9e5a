"""The outbox table. Alembic adopts it with ``target_metadata = [Base.metadata, holdfast.outbox.metadata]``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table

from holdfast.columns import LONG_TEXT, TABLE, Instant
from holdfast.outbox.rows import now

metadata = MetaData()

outbox = Table(
    "holdfast_outbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, comment="order of enqueueing"),
    Column("task_id", String(255), nullable=False, comment="what enqueue() returned"),
    Column("task", String(255), nullable=False, comment="name of the first task, for people"),
    Column("workflow", LONG_TEXT, nullable=False, comment="JSON: finished messages, and what a chord needs first"),
    Column("created_at", Instant, nullable=False, default=now),
    Column("not_before", Instant, comment="claimed by a relay, or waiting after a failure, until then"),
    Column("attempts", Integer, nullable=False, default=0, comment="failed attempts"),
    Column("refusals", Integer, nullable=False, default=0, comment="those that a healthy broker would repeat"),
    Column("error", LONG_TEXT, comment="of the last failed attempt"),
    Column("parked_at", Instant, comment="given up until an operator releases it"),
    **TABLE,
    sqlite_autoincrement=True,  # without it SQLite gives the number of a deleted last row to the next one
)

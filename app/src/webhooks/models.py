"""The tables: a delivery is accepted when its row is committed; an effect row exists once, whatever runs twice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import JSON, DateTime, ForeignKey, Index, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return a new identifier."""
    return str(uuid4())


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time that comes back with its zone from every database (SQLite drops it)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: object) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's
        """Add the zone that the database dropped."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


class Batch(Base):
    """Deliveries that were sent together and get one report."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Delivery(Base):
    """One payload for one URL; its id is the idempotency key that the receiver sees."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("deliveries_due", "status", "next_attempt_at"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"), index=True)
    url: Mapped[str]
    payload: Mapped[Any] = mapped_column(JSON)
    queue: Mapped[str]
    status: Mapped[str] = mapped_column(default=PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    replays: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(default=now)
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class Effect(Base):
    """What a delivery changed here, written in the transaction that marks it delivered: never twice."""

    __tablename__ = "effects"

    delivery_id: Mapped[str] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    task_id: Mapped[str]
    response_code: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Report(Base):
    """The outcome of a batch."""

    __tablename__ = "reports"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    total: Mapped[int]
    delivered: Mapped[int]
    dead: Mapped[int]
    pending: Mapped[int]
    attempts: Mapped[int]
    written_at: Mapped[datetime]

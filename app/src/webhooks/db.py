"""The database: one engine per process and URL, sessions that commit or roll back as a whole."""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery.signals import worker_process_init
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session

from holdfast import inbox, outbox
from webhooks import config
from webhooks.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine


@contextmanager
def transaction() -> Iterator[Session]:
    """Open a session that commits at the end of the block and rolls back when the block raises."""
    with Session(_engine(config.load().database_url), expire_on_commit=False) as session, session.begin():
        yield session


def create_tables() -> None:
    """Create the tables that are missing."""
    for tables in (Base.metadata, inbox.metadata, outbox.metadata):
        tables.create_all(_engine(config.load().database_url))


@lru_cache
def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(
            url,
            pool_pre_ping=True,  # a restarted server costs a reconnect, not a failed task
            hide_parameters=True,  # addresses and payloads stay out of the text of errors
        )
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": 30},  # seconds that a writer waits for another one
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver opens no transaction of its own; _begin_sqlite does
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # a reader that turns writer would fail at once instead of waiting


@worker_process_init.connect
def _forget_parent_connections(**_: object) -> None:
    """Drop the engines that came with a fork: two processes on one connection read each other's answers."""
    _engine.cache_clear()

"""The outbox on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from outbox_contract import OutboxContract, clear
from sqlalchemy import Engine, create_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database file of its own."""
    engine = create_engine(f"sqlite:///{tmp_path}/outbox.sqlite3", connect_args={"timeout": 30})
    clear(engine)
    yield engine
    engine.dispose()


class TestOutboxOnSQLite(OutboxContract):
    """All of the contract."""

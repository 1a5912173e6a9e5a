"""The inbox on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from inbox_contract import InboxContract, clear
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from holdfast import inbox

from .postgres import scratch_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    """A schema of its own."""
    with scratch_schema(stack.settings) as engine:
        clear(engine)
        yield engine


class TestInboxOnPostgreSQL(InboxContract):
    """All of the contract, and what only this database does."""

    def test_lock_timeout_limits_how_long_a_twin_waits(self, engine: Engine) -> None:
        with Session(engine) as first, Session(engine) as second:
            inbox.once(first, "task-1", lambda: "first")
            second.execute(text("SET LOCAL lock_timeout = '100ms'"))
            with pytest.raises(OperationalError, match="lock timeout"):
                inbox.once(second, "task-1", lambda: "second")
            second.rollback()
            first.commit()
            assert inbox.once(second, "task-1", lambda: "second") == "first"

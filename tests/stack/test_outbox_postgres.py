"""The outbox on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from outbox_contract import OutboxContract, add_rows, clear

from holdfast.outbox import store

from .postgres import scratch_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from .stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    """A schema of its own."""
    with scratch_schema(stack.settings) as engine:
        clear(engine)
        yield engine


class TestOutboxOnPostgreSQL(OutboxContract):
    """All of the contract, and what only this database does."""

    def test_a_relay_does_not_wait_for_rows_that_another_one_is_claiming(self, engine: Engine) -> None:
        add_rows(engine, 4)
        with engine.begin() as first, engine.begin() as second:
            mine = {row.id for row in store.claim(first, 2, lease=60)}
            others = {row.id for row in store.claim(second, 10, lease=60)}
        assert (len(mine), len(others)) == (2, 2)
        assert not mine & others

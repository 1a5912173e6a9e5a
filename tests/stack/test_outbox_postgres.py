"""The outbox on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from outbox_contract import OutboxContract, SkipLockedContract, clear

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


class TestOutboxOnPostgreSQL(OutboxContract, SkipLockedContract):
    """All of the contract."""

"""What the relay and an operator know of the rows of an outbox, wherever these are stored."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OUTAGE_WAIT = 15.0  # seconds; longest wait of a row that only met an outage: all is published soon after its end
REFUSED_WAIT = 300.0  # seconds; longest wait of a row that was refused itself
PARK_AFTER = 10  # refusals, about a quarter of an hour: long enough for a queue that an operator forgot to create


@dataclass(frozen=True, slots=True)
class Row:
    """A row; its fields are columns of the table ``holdfast_outbox``."""

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

    def changes(self, row: Row) -> dict[str, Any]:
        """Return the columns of the row that change, with their new values."""
        attempts, refusals = row.attempts + 1, row.refusals + self.refused
        wait = min(REFUSED_WAIT, 2.0**refusals) if self.refused else min(OUTAGE_WAIT, 2.0 ** min(attempts, 10))
        return {
            "workflow": self.rest or row.workflow,
            "not_before": now() + timedelta(seconds=wait * random.uniform(0.5, 1)),  # noqa: S311 - jitter
            "attempts": attempts,
            "refusals": refusals,
            "error": self.error,
            "parked_at": now() if refusals >= PARK_AFTER else None,
        }


RELEASED = {"parked_at": None, "not_before": None, "refusals": 0}  # columns of a parked row that is tried again


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


class Rows(Protocol):
    """The rows of one database; each method is a transaction of its own.

    A claim is a lease, not a lock: it moves ``not_before`` into the future, so that no transaction is open while a
    relay talks to the broker. The rows of a killed relay are due again when the lease ends.
    """

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the methods raise while the database is away."""

    def claim(self, limit: int, lease: float) -> list[Row]:
        """Take at most ``limit`` rows that are due, oldest first, for ``lease`` seconds; no other relay gets them."""

    def remove(self, ids: Iterable[int]) -> None:
        """Delete rows whose messages the broker has acknowledged."""

    def postpone(self, failures: Sequence[tuple[Row, Failure]]) -> None:
        """Keep rows whose messages were not all acknowledged; a row that is gone meanwhile stays so."""

    def backlog(self) -> Backlog:
        """Count the rows; called from any thread."""

    def parked(self) -> list[Row]:
        """Return the parked rows, oldest first."""

    def find(self, task_id: str) -> Row | None:
        """Return the row of a task; None when there is none."""

    def release(self, ids: Iterable[int]) -> int:
        """Let parked rows be tried again; return how many there were."""

    def discard(self, ids: Iterable[int]) -> int:
        """Delete parked rows permanently; return how many there were."""


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(timezone.utc)

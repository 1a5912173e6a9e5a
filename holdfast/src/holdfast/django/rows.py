"""The outbox's rows on a connection of Django's, for the relay and for operators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import Error, connections, transaction
from django.db.models import Count, Min, Q

from holdfast.django.models import Outbox
from holdfast.outbox.rows import RELEASED, Backlog, Failure, Row, now

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

COLUMNS = list(Row.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class DjangoRows:
    """The :class:`holdfast.outbox.rows.Rows` of one of the ``DATABASES``.

    Attributes:
        using: its name.
    """

    using: str

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return (Error,)

    def claim(self, limit: int, lease: float) -> list[Row]:
        start = now()
        found = self._rows()
        with transaction.atomic(using=self.using):
            features = connections[self.using].features
            if not features.has_select_for_update:
                # SQLite opens a transaction for reading, and two readers that want to write then refuse each other
                found.filter(pk=0).update(attempts=0)
            due = found.filter(Q(not_before=None) | Q(not_before__lte=start), parked_at=None).order_by("id")
            locked = due.select_for_update(skip_locked=features.has_select_for_update_skip_locked)
            rows = [Row(*values) for values in locked.values_list(*COLUMNS)[:limit]]
            found.filter(pk__in=[row.id for row in rows]).update(not_before=start + timedelta(seconds=lease))
        return rows

    def remove(self, ids: Iterable[int]) -> None:
        self._rows().filter(pk__in=list(ids)).delete()

    def postpone(self, failures: Sequence[tuple[Row, Failure]]) -> None:
        found = self._rows()
        with transaction.atomic(using=self.using):
            for row, failure in failures:
                found.filter(pk=row.id).update(**failure.changes(row))

    def backlog(self) -> Backlog:
        waits, connection = Q(parked_at=None), connections[self.using]
        closed = connection.connection is None
        try:
            counts = self._rows().aggregate(
                waiting=Count("pk", filter=waits),
                oldest=Min("created_at", filter=waits),
                parked=Count("pk", filter=~waits),
            )
        finally:
            if closed:  # each page of metrics is made by a thread of its own, which would leave its connection behind
                connection.close()
        return Backlog(**counts)

    def parked(self) -> list[Row]:
        rows = self._rows().exclude(parked_at=None).order_by("id")
        return [Row(*values) for values in rows.values_list(*COLUMNS)]

    def find(self, task_id: str) -> Row | None:
        found = self._rows().filter(task_id=task_id).values_list(*COLUMNS).first()
        return Row(*found) if found else None

    def release(self, ids: Iterable[int]) -> int:
        return int(self._rows().filter(pk__in=list(ids)).exclude(parked_at=None).update(**RELEASED))

    def discard(self, ids: Iterable[int]) -> int:
        return int(self._rows().filter(pk__in=list(ids)).exclude(parked_at=None).delete()[0])

    def _rows(self) -> Any:
        """Return the rows, on a connection that works: what a request's start does for a view."""
        connection = connections[self.using]
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        return Outbox.objects.using(self.using)

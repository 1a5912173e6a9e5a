"""The rows of django-celery-beat as entries of the schedule, read again while beat runs.

A row has a place in the schedule while it is enabled, from its ``start_time`` until it expires. An entry of
``beat_schedule`` wins over the row of its name, which can only disable it: django-celery-beat's own scheduler copied it
there. When the database is away, beat goes on with what it has read.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.schedules import BaseSchedule, crontab, schedule, solar
from celery.utils.log import get_logger

from holdfast.schedule import ticks
from holdfast.schedule.ticks import UTC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

logger = get_logger(__name__)

LOOK = 5.0  # seconds between two questions whether rows have changed, as django-celery-beat asks
AGAIN = timedelta(minutes=5)  # after which all are read, whatever the answer: a bulk update leaves no trace
MOMENT = timedelta(microseconds=1)
KINDS = ("interval", "crontab", "solar", "clocked")
OPTIONS = ("queue", "exchange", "routing_key", "priority")


class Moment(BaseSchedule):
    """One tick: of a row that runs once.

    Args:
        at: its instant.
        app: the application.
    """

    def __init__(self, at: datetime, app: Celery | None = None) -> None:
        super().__init__(app=app)
        self.at = at.astimezone(UTC)

    @property
    def before(self) -> datetime:
        """The last instant before the tick, from which it counts however late it is seen."""
        return self.at - MOMENT

    def remaining_estimate(self, last_run_at: datetime) -> timedelta | None:  # type: ignore[override]  # or None
        """Return the time from the last tick to this one; None when this was the last."""
        return None if last_run_at >= self.at else self.at - last_run_at

    def is_due(self, last_run_at: datetime) -> Any:
        """Return whether to send it now, and the seconds until then; None when it was sent."""
        left = (self.at - self.maybe_make_aware(self.now())).total_seconds()
        sent = last_run_at >= self.at
        return not sent and left <= 0, None if sent else max(0.0, left)

    def __repr__(self) -> str:
        return f"<moment: {self.at.isoformat()}>"


class ZonedCrontab(crontab):
    """A crontab in a time zone of its own."""

    def __init__(self, *fields: Any, tz: Any, **options: Any) -> None:
        super().__init__(*fields, **options)
        vars(self)["tz"] = tz  # where Celery keeps the application's

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]} {self.tz}>"


class Rows:
    """The rows of an application that has django-celery-beat; without it there are none.

    Args:
        app: the application.

    Attributes:
        entries: what the rows say, as in ``beat_schedule``.
        refused: rows that cannot be served, and why.
        known: whether the rows have been read since they were forgotten.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._models: Any = sys.modules.get("django_celery_beat.models")
        self._ran: dict[str, tuple[datetime, int, datetime]] = {}  # not written back yet: last tick, ticks, noted when
        self._complaint = ""
        self.entries: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, Exception] = {}
        self._disabled: set[str] = set()
        self.forget()

    def forget(self) -> None:
        """Read all rows at the next look, which is due at once."""
        self._look_at, self._change, self._until = 0.0, None, datetime.min.replace(tzinfo=UTC)
        self.known = self._models is None

    def beside(self, configured: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of a configuration and of the rows."""
        return self.entries | {name: entry for name, entry in configured.items() if name not in self._disabled}

    def look(self, configured: Mapping[str, Any]) -> bool:
        """Write back what ran, and read the rows if they may have changed.

        Args:
            configured: ``beat_schedule``; a disabled row disables its entry.

        Returns:
            Whether they were read.
        """
        if self._models is None or monotonic() < self._look_at:
            return False
        from django.db import Error, close_old_connections  # noqa: PLC0415 - an application without it is no worse

        self._look_at = monotonic() + LOOK
        try:
            close_old_connections()
            self._write_back()
            found = self._read(configured)
        except Error as error:
            if self._complaint != f"{error!r}":
                logger.warning("beat: the rows of django-celery-beat cannot be read or written now: %r", error)
            self._complaint = f"{error!r}"
            return False
        self._complaint = ""
        return found

    def ran(self, name: str, instant: datetime) -> None:
        """Note a tick of an entry; if it has a row, the next look writes it there.

        Args:
            name: of the entry.
            instant: of the tick.
        """
        if name in self.entries:
            self._ran[name] = (instant, self._ran.get(name, (instant, 0))[1] + 1, datetime.now(UTC))

    def _write_back(self) -> None:
        from django.db.models import F  # noqa: PLC0415 - as above

        for name, (instant, count, noted) in list(self._ran.items()):
            row = self._models.PeriodicTask.objects.filter(name=name)
            if isinstance(self.entries.get(name, {}).get("schedule"), Moment):  # as django-celery-beat leaves it
                row = row.filter(date_changed__lte=_stored(noted))  # whoever has changed it since wants another run
                row.update(enabled=False, last_run_at=None, total_run_count=0)
                self._until = noted  # read all again: it has no place in the schedule any more
            else:  # sends no signal: it is no change
                row.update(last_run_at=_stored(instant), total_run_count=F("total_run_count") + count)
            del self._ran[name]

    def _read(self, configured: Mapping[str, Any]) -> bool:
        now, change = datetime.now(UTC), self._models.PeriodicTasks.last_change()
        if self.known and change == self._change and now < self._until:
            return False
        until, rows = now + AGAIN, self._models.PeriodicTask.objects
        self.entries, self.refused = {}, {}
        for row in rows.filter(enabled=True).exclude(one_off=True, total_run_count__gt=0).select_related(*KINDS):
            start, end = _aware(row.start_time), _aware(row.expires)
            until = min([until, *(edge for edge in (start, end) if edge and edge > now)])
            if (start is None or start <= now) and (end is None or end > now):
                try:
                    self.entries[row.name] = self._entry(row, start)
                except Exception as error:  # noqa: BLE001 - one bad row must not stop the others
                    self.refused[row.name] = error
        disabled = rows.filter(enabled=False, name__in=list(configured))
        self._disabled = set(disabled.values_list("name", flat=True))
        self._change, self._until, self.known = change, until, True
        return True

    def _entry(self, row: Any, start: datetime | None) -> dict[str, Any]:
        when = self._schedule(row)
        last = _aware(row.last_run_at) or _aware(row.date_changed)
        if start is not None and not isinstance(when, Moment):
            last = ticks.on_grid(when, start - (ticks.every(when) or MOMENT), last or start)
        if row.one_off and not isinstance(when, Moment):
            when = Moment(ticks.after(when, last or datetime.now(UTC)) or datetime.now(UTC), self._app)
        options = {option: value for option in OPTIONS if (value := getattr(row, option)) not in {None, ""}}
        expires = _aware(row.expires) or row.expire_seconds
        return {
            "task": row.task,
            "schedule": when,
            "args": json.loads(row.args or "[]"),
            "kwargs": json.loads(row.kwargs or "{}"),
            "options": {
                **options,
                **({"expires": expires} if expires else {}),
                "headers": {**json.loads(row.headers or "{}"), "periodic_task_name": row.name},
            },
            "last_run_at": when.before if isinstance(when, Moment) else last,
        }

    def _schedule(self, row: Any) -> Any:
        if row.interval:
            return schedule(timedelta(**{row.interval.period: row.interval.every}), app=self._app)
        if row.crontab:
            fields = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
            parts = {field: getattr(row.crontab, field) for field in fields}
            if _in_its_zone():
                return ZonedCrontab(**parts, tz=row.crontab.timezone, app=self._app)
            return crontab(**parts, app=self._app)
        if row.solar:
            return solar(row.solar.event, float(row.solar.latitude), float(row.solar.longitude), app=self._app)
        if row.clocked:
            return Moment(_aware(row.clocked.clocked_time) or datetime.now(UTC), self._app)
        raise ValueError("it has no schedule")


def _in_its_zone() -> bool:
    from django.conf import settings  # noqa: PLC0415 - as above

    return bool(getattr(settings, "DJANGO_CELERY_BEAT_TZ_AWARE", True))


def _aware(value: datetime | None) -> datetime | None:
    """Return an instant of the database in UTC; with USE_TZ=False it is a local time there."""
    from django.utils import timezone  # noqa: PLC0415 - as above

    if value is None:
        return None
    return (timezone.make_aware(value) if timezone.is_naive(value) else value).astimezone(UTC)


def _stored(instant: datetime) -> datetime:
    """Return an instant as the database keeps it."""
    from django.conf import settings  # noqa: PLC0415 - as above
    from django.utils import timezone  # noqa: PLC0415 - as above

    return instant if settings.USE_TZ else timezone.make_naive(instant)

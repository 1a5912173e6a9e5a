"""An entry of the schedule, as redbeat keeps it in Redis: a definition, when it last ticked, and a place in the order.

What JSON cannot hold exactly (solar, a schedule class of one's own, a clock of one's own, UUID, Decimal and date
arguments, ``BeatLazyFunc``) stays in the application's ``beat_schedule``; Redis has a reference. Both beats have the
same code, so either can serve it. All times are in UTC: a local time of the hour that comes twice says too little.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery.schedules import crontab, schedule
from redbeat.decoder import RedBeatJSONEncoder
from redbeat.schedulers import RedBeatSchedulerEntry, get_redis
from redbeat.schedules import rrule

from holdfast.schedule import ticks
from holdfast.schedule.rows import Moment
from holdfast.schedule.ticks import UTC

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 500  # entries written or read at once
FIELDS = ("args", "kwargs", "options", "schedule")  # of a definition, those that may be kept in beat_schedule
REFERENCE = "beat_schedule"
SHOWN = ("<crontab: ", "<moment: ", "<solar: ")  # schedules that show all that tells one from another
START = timedelta(seconds=30)  # for beat to start, while the first occurrence of a new rrule still counts


class StoredEntry(RedBeatSchedulerEntry):
    """One periodic task.

    Raises:
        ValueError: its schedule cannot be kept.
    """

    text: str | None = None  # the definition it was read from
    stored_score = 0.0
    total_run_count: int
    last_run_at: datetime | None

    def __init__(self, name: str | None = None, task: str | None = None, schedule: Any = None, **fields: Any) -> None:
        try:
            super().__init__(name, task, schedule, **fields)
        except AttributeError as error:
            raise ValueError(ticks.NOT_A_SCHEDULE.format(schedule)) from error
        if not self.task:
            raise ValueError("it names no task")
        ticks.check(self.schedule)
        if "last_run_at" not in fields:
            self.last_run_at = self.beginning()

    # -- in Redis

    @classmethod
    def read(cls, app: Any, definition: str, meta: str | None, ticked_by: str | None) -> StoredEntry:
        """Make an entry of what Redis has.

        Args:
            app: the application.
            definition: of the entry, JSON.
            meta: when it last ticked, JSON; None when nothing is known.
            ticked_by: the schedule that this tick was of, as in the definition; None when nothing is known.

        Raises:
            Exception: whatever a definition of unknown origin brings.
        """
        fields = cls.decode_definition(definition)
        for field in FIELDS:
            value = fields.get(field)
            if isinstance(value, dict) and value.get("__type__") == REFERENCE:
                fields[field] = app.conf.beat_schedule[fields["name"]].get(field)
        entry = cls(app=app, **{**fields, **cls.decode_meta(meta)})
        entry.text = definition
        if ticked_by not in {None, REFERENCE, _schedule_of(definition)}:  # in 0.1 a reference did not say to what
            entry.last_run_at = None  # what another schedule would have sent is not missed
        return entry

    def save(self) -> StoredEntry:
        """Write the entry; when it last ticked stays as it is known.

        Raises:
            ValueError: a part of it cannot be kept in Redis, and beat_schedule does not have it.
        """
        for error in self.save_all(self.app, [self]).values():
            raise error
        return self

    @classmethod
    def save_all(cls, app: Any, entries: Sequence[StoredEntry]) -> dict[str, Exception]:
        """Write entries as :meth:`save` does, many at a time: each round trip ends with an fsync of the server.

        Args:
            app: the application of all.
            entries: what to write.

        Returns:
            What keeps entries from being written, by their keys; the others are written.

        Raises:
            RedisError: the store is away. What was written before is complete, and all can be written again.
        """
        refused: dict[str, Exception] = {}
        client = get_redis(app)
        for start in range(0, len(entries), BATCH):
            batch: list[StoredEntry] = []
            with client.pipeline() as pipe:
                for entry in entries[start : start + BATCH]:
                    try:
                        entry.text = entry._definition()
                        meta = entry._ticked(entry.last_run_at or entry.beginning())
                    except Exception as error:  # noqa: BLE001 - it is the caller's to tell
                        refused[entry.key] = error
                        continue
                    pipe.hset(entry.key, "definition", entry.text)
                    pipe.hsetnx(entry.key, "meta", meta)
                    pipe.hmget(entry.key, "meta", "ticked_by")
                    batch.append(entry)
                known = pipe.execute()[2::3]
            scores = {}
            for entry, row in zip(batch, known, strict=True):
                try:
                    stored = cls.read(app, str(entry.text), *row)
                    entry.last_run_at, entry.total_run_count = stored.last_run_at, stored.total_run_count
                    scores[entry.key] = entry.score
                except Exception as error:  # noqa: BLE001 - likewise
                    refused[entry.key] = error
            if scores:
                client.zadd(app.redbeat_conf.schedule_key, scores)
        return refused

    def done(self, last: datetime, *, count: int = 1) -> None:
        """Note a tick as done. An entry that was removed meanwhile stays removed, a changed one is ordered anew.

        Args:
            last: its instant.
            count: how many runs that is.
        """
        self.last_run_at, self.total_run_count = last, self.total_run_count + count
        client, order = get_redis(self.app), self.app.redbeat_conf.schedule_key
        known = {"meta": self._ticked(last), "ticked_by": _schedule_of(self.text or self._definition())}
        with client.pipeline() as pipe:
            pipe.hset(self.key, mapping=known)
            pipe.zadd(order, {self.key: self.score})
            pipe.hget(self.key, "definition")
            definition = pipe.execute()[-1]
        if definition is None:
            self.delete()
        elif definition != self.text:
            self.read(self.app, definition, *known.values()).place()

    def place(self) -> None:
        """Order the entry by its next tick."""
        get_redis(self.app).zadd(self.app.redbeat_conf.schedule_key, {self.key: self.score})

    @property
    def score(self) -> float:
        """When the next tick is due, in seconds since the epoch; -1 when there is none."""
        due = ticks.after(self.schedule, self.last_run_at) if self.last_run_at else self.now()
        return -1 if due is None else due.timestamp()

    # -- its time

    def now(self) -> datetime:
        """Return the time by the clock of its schedule, which is the application's unless it has its own."""
        now: datetime = self.schedule.maybe_make_aware(self.schedule.now())
        return now.astimezone(UTC)

    def upcoming(self, last: datetime, catch_up: timedelta, not_before: datetime | None) -> datetime | None:
        """Return the instant of the tick that is to be sent next; later than now when none is due.

        Args:
            last: the instant of the one before.
            catch_up: how far back missed ticks are all sent.
            not_before: of ticks missed before it, only the latest is sent.
        """
        now = self.now()
        if _has_own_rules(self.schedule):
            return self._by_its_own_rules(last, now)
        deadline = self.app.conf.beat_cron_starting_deadline if isinstance(self.schedule, crontab) else None
        if deadline is not None:
            return ticks.to_send(self.schedule, last, now, now - timedelta(seconds=deadline), latest=False)
        since = max(now - catch_up, not_before or now - catch_up)
        return ticks.to_send(self.schedule, last, now, since)

    def _by_its_own_rules(self, last: datetime, now: datetime) -> datetime | None:
        due, delay = self.schedule.is_due(last.astimezone(self.schedule.tz))
        if not due:
            return None if delay is None else now + timedelta(seconds=max(delay, 0.1))
        instant = ticks.after(self.schedule, last)
        return now if instant is None or instant > now else instant

    def beginning(self) -> datetime:
        """Return the instant from which a new entry counts."""
        if isinstance(self.schedule, Moment):
            return self.schedule.before
        now, first = self.now(), getattr(self.schedule, "dtstart", None)
        if isinstance(self.schedule, rrule) and first and now - START <= first <= now:
            return first.astimezone(UTC).replace(microsecond=0) - timedelta(microseconds=1)  # as dateutil rounds it
        return now

    # -- as text

    def _ticked(self, last: datetime) -> str:
        known = {"last_run_at": last.astimezone(UTC), "total_run_count": self.total_run_count}
        return json.dumps(known, cls=RedBeatJSONEncoder)

    def _definition(self) -> str:
        known = {"name": self.name, "task": self.task, "enabled": self.enabled}
        configured = self.name in (self.app.conf.beat_schedule or {})
        for field in FIELDS:
            value = getattr(self, field)
            try:
                known[field] = json.loads(_text(value, configured))
            except (TypeError, ValueError) as error:
                if not configured:
                    raise ValueError(
                        f"its {field} {value!r} cannot be kept in Redis, put the entry into beat_schedule"
                    ) from error
                known[field] = {"__type__": REFERENCE, "shown": repr(value)}
        return json.dumps(known)


def _schedule_of(definition: str) -> str:
    """Return the schedule in a definition as text; of one that is kept in beat_schedule, what it shows of itself."""
    value = json.loads(definition)["schedule"]
    if value.get("__type__") == REFERENCE and not value.get("shown", "").startswith(SHOWN):
        return REFERENCE
    return json.dumps(value, sort_keys=True)


def _text(value: Any, exactly: bool) -> str:
    """Return a field as JSON that is read back as the same.

    Raises:
        TypeError: there is no such JSON.
    """
    kept = {schedule, crontab} if exactly else {schedule, crontab, rrule}  # redbeat loses the time zone of an rrule
    if type(value) in kept and value.nowfun is None:
        return json.dumps(value, cls=RedBeatJSONEncoder)
    return json.dumps(value)


def _has_own_rules(when: Any) -> bool:
    """Return whether a schedule decides in a way of its own whether it is due."""
    own: Any = type(when).is_due
    return not getattr(own, "__module__", "").startswith(("celery.", "redbeat."))

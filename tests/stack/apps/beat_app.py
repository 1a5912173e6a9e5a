"""A Celery application for tests of beat alone: ``celery -A beat_app beat``. Redis is broker and keeps the schedule.

Each entry has a queue of its own name, which nobody consumes: what is in it is what was sent.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from celery import Celery
from celery.beat import BeatLazyFunc
from celery.schedules import crontab, schedule
from kombu import Queue
from redbeat.schedules import rrule

URL = os.environ["BEAT_REDIS"]
SCHEDULE = os.environ["BEAT_SCHEDULE"]
ID = UUID("6f1f2a4e-6f4b-4e0a-9d9e-0f3d1b5c7a11")


class TokyoMinutes(crontab):
    """A schedule class of an application's own, with a time zone of its own."""

    @property
    def tz(self) -> Any:  # Celery caches it; the stubs take it for a name
        return ZoneInfo("Asia/Tokyo")


class Broken(schedule):
    """A schedule that fails when it is asked."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        raise RuntimeError(f"no answer for {last_run_at}")


ENTRIES: dict[str, dict[str, Any]] = {
    "quarter": {"schedule": 0.25},
    "half": {"schedule": 0.5},
    "odd": {"schedule": 1.5},
    "second": {"schedule": 1},
    "two": {"schedule": timedelta(seconds=2)},
    "relative": {"schedule": schedule(2, relative=True)},
    "days": {"schedule": timedelta(days=2)},
    "too-short": {"schedule": 0.01},
    "never": {"schedule": 0},
    "between": {"schedule": schedule(1.5, relative=True)},
    "text": {"schedule": "* * * * *"},
    "unknown-field": {"schedule": 1, "every": 3},
    "broken": {"schedule": Broken(1)},
    "three": {"schedule": rrule("SECONDLY", interval=2, count=3)},
    "uuid": {"schedule": 1, "args": (ID,), "kwargs": {"of": Decimal("1.10"), "at": datetime(2026, 1, 2, tzinfo=UTC)}},
    "lazy": {"schedule": 1, "args": (BeatLazyFunc(str, 7),)},
    "tokyo": {"schedule": TokyoMinutes()},
    "own-clock": {"schedule": crontab(nowfun=partial(datetime.now, UTC))},
    "disabled": {"schedule": 1, "enabled": False},
    "expires": {"schedule": 1, "options": {"expires": 30}},
    "unserialisable": {"schedule": 1, "args": (object(),)},
    "nowhere": {"schedule": 1, "options": {"queue": "not-declared"}},
}


class AppWithClock(Celery):
    """An application whose clock can be set: the file ``BEAT_CLOCK`` says by how many seconds."""

    def now(self) -> datetime:
        clock = Path(os.environ["BEAT_CLOCK"])
        return super().now() + timedelta(seconds=float(clock.read_text(encoding="utf-8")) if clock.exists() else 0)


app = AppWithClock("beat_app", broker=f"{URL}/1")
app.conf.redbeat_redis_url = SCHEDULE
app.conf.beat_scheduler = "holdfast.beat:Scheduler"
app.conf.beat_max_loop_interval = 5
app.conf.redbeat_lock_timeout = 30
app.conf.task_create_missing_queues = False
app.conf.task_queues = []
app.conf.update(timezone="Europe/Berlin")
for name in os.environ["BEAT_ENTRIES"].split(","):
    app.amqp.queues.add(Queue.from_dict(name, routing_key=name))
    app.conf.beat_schedule[name] = {"task": f"beat_app.{name}", "options": {"queue": name}} | ENTRIES[name]
    app.conf.beat_schedule[name]["options"] = {"queue": name} | ENTRIES[name].get("options", {})

"""The scheduler's arithmetic: which tick is due, under which id, and what follows it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab, schedule

from holdfast import beat, pulse
from holdfast.beat import Scheduler

NOW = datetime(2026, 11, 23, 12, 0, 30, 250_000, tzinfo=timezone.utc)


class Entry:
    """What the scheduler uses of a redbeat entry."""

    name, task, args, kwargs = "report", "t", (), {}

    def __init__(self, app: Celery, when: schedule, last_run_at: datetime | None, **options: Any) -> None:
        self.app, self.schedule, self.last_run_at, self.options = app, when, last_run_at, options
        when.nowfun = lambda: NOW
        when.app = app  # not the current one, which another test's application may be

    def default_now(self) -> datetime:
        return NOW

    def is_due(self) -> tuple[bool, float]:
        due, delay = self.schedule.is_due(self.last_run_at or datetime(2000, 1, 1, tzinfo=timezone.utc))
        return due, delay

    def next(self, last_run_at: datetime) -> Entry:
        return Entry(self.app, self.schedule, last_run_at, **self.options)


@pytest.fixture
def app() -> Celery:
    app = Celery("unit", broker="memory://", set_as_current=False)
    app.conf.timezone = "UTC"
    return app


@pytest.fixture
def scheduler(app: Celery, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """A scheduler that holds the lock, without Redis."""
    monkeypatch.setenv("HOLDFAST_PULSE_DIR", str(tmp_path))
    monkeypatch.setattr(Scheduler, "_holds_lock", lambda _self: True)
    one: Any = Scheduler.__new__(Scheduler)
    one.app, one.max_interval, one.catch_up, one._first = app, 5, timedelta(seconds=beat.CATCH_UP), {}
    one.pulse = pulse.Pulse("beat", "beat")
    return one


def run(scheduler: Any, entry: Entry, monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> Any:
    """Let the scheduler look at an entry; return the ids sent and the delay."""
    sent = []

    def send(_name: str, _args: Any, _kwargs: Any, **options: Any) -> None:
        sent.append(options["task_id"])
        if failure:
            raise failure

    monkeypatch.setattr(scheduler.app, "send_task", send)
    return sent, scheduler.maybe_due(entry)


@pytest.mark.parametrize(
    ("when", "last", "scheduled"),
    [
        (schedule(20), NOW - timedelta(seconds=50), NOW.replace(microsecond=0) - timedelta(seconds=30)),
        (
            crontab(),
            NOW.replace(minute=0, second=0, microsecond=0, hour=11),
            datetime(2026, 11, 23, 11, 1, tzinfo=timezone.utc),
        ),
        (schedule(20), None, NOW.replace(microsecond=0)),
    ],
    ids=["interval", "crontab", "first"],
)
def test_a_tick_is_named_by_the_time_it_was_scheduled_for(
    app: Celery, scheduler: Any, when: schedule, last: datetime | None, scheduled: datetime
) -> None:
    assert scheduler._scheduled(Entry(app, when, last)) == scheduled


def test_a_tick_that_is_not_acknowledged_stays_due_under_its_id(
    app: Celery, scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry(app, schedule(20), None)
    (first,), delay = run(scheduler, entry, monkeypatch, ConnectionError("no broker"))
    assert delay == 5
    (second,), _ = run(scheduler, entry, monkeypatch)
    assert first == second


def test_missed_ticks_follow_each_with_its_own_id(app: Celery, scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(
        Entry, "next", lambda self, last_run_at: done.append(last_run_at) or Entry(app, self.schedule, last_run_at)
    )
    sent, delay = run(scheduler, Entry(app, schedule(20), NOW - timedelta(seconds=50)), monkeypatch)
    assert delay == beat.AT_ONCE  # one more is due
    later, delay = run(scheduler, Entry(app, schedule(20), done[0]), monkeypatch)
    assert delay == 20
    assert done[1] - done[0] == timedelta(seconds=20)
    assert sent != later


def test_ticks_from_too_long_ago_are_left_out(app: Celery, scheduler: Any) -> None:
    entry = Entry(app, schedule(20), NOW - timedelta(hours=3))
    assert scheduler._done(entry, NOW - timedelta(hours=3)).last_run_at == NOW
    assert scheduler._done(entry, NOW - timedelta(minutes=59)).last_run_at == NOW - timedelta(minutes=59)


def test_without_the_lock_nothing_is_sent(app: Celery, scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_holds_lock", lambda _self: False)
    assert run(scheduler, Entry(app, schedule(20), None), monkeypatch) == ([], 5)


def test_a_chosen_id_and_headers_are_kept(app: Celery, scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(scheduler, Entry(app, schedule(20), None, task_id="mine"), monkeypatch)[0] == ["mine"]

"""When ticks are due: exact instants, through clocks that are set and hours that come twice."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery._state import _tls
from celery.schedules import crontab, schedule
from dateutil.rrule import HOURLY, MINUTELY
from hypothesis import given, settings
from hypothesis import strategies as st
from redbeat.schedules import rrule

from holdfast.schedule import ticks
from holdfast.schedule.ticks import UTC

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, 23, 59, 30, tzinfo=UTC)  # 01:59:30 in Berlin; from 03:00 the clock goes back to 02:00
SPRING = datetime(2026, 3, 29, 0, 29, 30, tzinfo=UTC)  # 01:29:30 in Berlin; from 02:00 it goes on to 03:00


@cache
def application(zone: str) -> Celery:
    """Return an application in a time zone."""
    app = Celery("unit", broker="memory://", set_as_current=False)
    app.conf.update(timezone=zone)
    return app


@pytest.fixture(autouse=True)
def current() -> Iterator[None]:
    """Make an application of this file the current one: redbeat's rules ask that for its time zone."""
    before = _tls.current_app
    application("UTC").set_current()
    yield
    _tls.current_app = before


def with_app(when: Any, zone: str = "UTC") -> Any:
    """Give a schedule an application of its own."""
    when.app = application(zone)
    vars(when).pop("tz", None)
    return when


def run(when: Any, start: datetime, end: datetime) -> list[datetime]:
    """Return the ticks after start, up to end."""
    found: list[datetime] = []
    while (tick := ticks.after(when, found[-1] if found else start)) and tick <= end:
        found.append(tick)
    return found


@settings(deadline=None)  # the first example builds the application
@given(st.integers(100_000, 10_000_000), st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)))  # noqa: DTZ001 - hypothesis takes no zone here
def test_an_interval_ticks_exactly(micros: int, start: datetime) -> None:
    every, first = timedelta(microseconds=micros), start.replace(tzinfo=UTC)
    when = with_app(schedule(every), "Europe/Berlin")
    assert run(when, first, first + 20 * every) == [first + n * every for n in range(1, 21)]


@pytest.mark.parametrize(("every", "count"), [(0.25, 240), (0.5, 120), (1.5, 40), (0.1, 600), (7, 8)])
def test_a_minute_has_as_many_ticks_as_are_due(every: float, count: int) -> None:
    found = run(with_app(schedule(every)), NOON, NOON + timedelta(minutes=1))
    assert len(found) == len(set(found)) == count


@pytest.mark.parametrize(
    ("when", "count"),
    [
        (crontab(), 180),
        (crontab(minute="*/15"), 12),
        (crontab(minute=0), 3),
        (crontab(minute=30), 3),
        (crontab(minute=30, hour=2), 1),  # chosen hours: once
        (schedule(60), 180),
        (schedule(timedelta(hours=1)), 3),
    ],
    ids=repr,
)
def test_every_tick_of_the_hour_that_comes_twice_is_another_one(when: Any, count: int) -> None:
    found = run(with_app(when, "Europe/Berlin"), AUTUMN, AUTUMN + timedelta(hours=3))
    assert len(found) == len(set(found)) == count
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("when", "count"),
    [(crontab(), 120), (crontab(minute="*/15"), 8), (crontab(minute=0), 2), (crontab(minute=30, hour=2), 1)],
    ids=repr,
)
def test_the_hour_that_is_left_out_costs_no_tick(when: Any, count: int) -> None:
    found = run(with_app(when, "Europe/Berlin"), SPRING, SPRING + timedelta(hours=2))
    assert len(found) == len(set(found)) == count


@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "Pacific/Chatham", "America/New_York", "Antarctica/Troll"])
@pytest.mark.parametrize("when", [crontab(), crontab(minute="*/15"), crontab(minute=5, hour="*/3")], ids=repr)
def test_the_ticks_of_a_year_go_forward_in_every_zone(zone: str, when: Any) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    moments = [start + timedelta(hours=25 * n, minutes=n % 60) for n in range(350)]
    following = [tick for moment in moments if (tick := ticks.after(with_app(when, zone), moment))]
    assert all(moment < tick for moment, tick in zip(moments, following, strict=True))
    assert following == sorted(following)


@pytest.mark.parametrize("freq", [HOURLY, MINUTELY])
def test_a_rule_on_local_times_goes_on_after_the_hour_that_comes_twice(freq: int) -> None:
    start = AUTUMN.astimezone(ZoneInfo("Europe/Berlin"))
    when = with_app(rrule(freq, dtstart=start), "Europe/Berlin")
    for minutes in range(0, 240, 7):
        moment = AUTUMN + timedelta(minutes=minutes)
        tick = ticks.after(when, moment)
        assert tick is not None
        assert moment < tick <= moment + timedelta(hours=2, minutes=1)


def test_a_rule_with_a_count_ends() -> None:
    when = with_app(rrule("SECONDLY", interval=2, count=3, dtstart=NOON))
    assert len(run(when, NOON - timedelta(seconds=1), NOON + timedelta(days=1))) == 3


def test_days_of_a_relative_schedule_are_those_of_the_zone() -> None:
    when = with_app(schedule(timedelta(days=1), relative=True), "Asia/Tokyo")
    assert ticks.after(when, NOON) == datetime(2026, 11, 23, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (with_app(schedule(0.05), "UTC"), "0.1 s is the shortest"),
        (with_app(schedule(0), "UTC"), "0.1 s is the shortest"),
        (with_app(schedule(-5), "UTC"), "0.1 s is the shortest"),
        (with_app(schedule(None), "UTC"), "0.1 s is the shortest"),
        (with_app(schedule(1.5, relative=True), "UTC"), "not a whole number"),
        ("* * * * *", "is not a schedule"),
        (None, "is not a schedule"),
    ],
)
def test_what_no_beat_can_keep_is_refused(when: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ticks.check(when)


def test_a_schedule_that_does_not_go_forward_is_refused() -> None:
    class Still(schedule):
        def remaining_estimate(self, last_run_at: datetime) -> timedelta:  # noqa: ARG002 - Celery calls it so
            return timedelta(days=-1)

    with pytest.raises(ValueError, match="as the tick after"):
        ticks.after(with_app(Still(5)), NOON)


# -- after an outage


def missed(when: Any, away: timedelta, since: timedelta, **options: Any) -> datetime | None:
    """Return what is sent next when the last tick is so long ago."""
    return ticks.to_send(with_app(when), NOON - away, NOON, NOON - since, **options)


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("when", "away", "due"),
    [
        (schedule(20), timedelta(seconds=50), NOON - timedelta(seconds=30)),
        (schedule(20), 3 * HOUR, NOON - HOUR + timedelta(seconds=20)),  # older ones are left out, on the same grid
        (schedule(7), 3 * HOUR, NOON - 3 * HOUR + 1029 * timedelta(seconds=7)),
        (schedule(0.25), 20000 * DAY, NOON - HOUR + timedelta(seconds=0.25)),
        (schedule(2 * HOUR), 11 * HOUR, NOON - HOUR),  # the latest
        (schedule(DAY), 3.5 * DAY, NOON - 0.5 * DAY),
        (schedule(DAY), 0.5 * DAY, NOON + 0.5 * DAY),
        (crontab(), 3 * HOUR, datetime(2026, 11, 23, 11, 1, tzinfo=UTC)),
        (crontab(minute=0, hour=4), 30 * DAY, datetime(2026, 11, 23, 4, tzinfo=UTC)),
        (crontab(minute="*", hour=4), 30 * DAY, datetime(2026, 11, 23, 4, 59, tzinfo=UTC)),
        (crontab(minute=0, hour=0, day_of_month=1), 400 * DAY, datetime(2026, 11, 1, tzinfo=UTC)),
    ],
    ids=repr,
)
def test_missed_ticks_are_made_up_for(when: Any, away: timedelta, due: datetime) -> None:
    assert missed(when, away, HOUR) == due


def test_a_deadline_for_late_ticks_leaves_older_ones_out() -> None:
    nightly = crontab(minute=0, hour=4)
    assert missed(nightly, 3 * DAY, HOUR, latest=False) == datetime(2026, 11, 24, 4, tzinfo=UTC)
    assert missed(nightly, 3 * DAY, 9 * HOUR, latest=False) == datetime(2026, 11, 23, 4, tzinfo=UTC)


def test_after_a_clock_was_set_only_the_latest_follows() -> None:
    assert missed(schedule(20), 2 * HOUR, timedelta(0)) == NOON
    assert missed(schedule(7), 2 * HOUR, timedelta(0)) == NOON - timedelta(seconds=4)
    assert missed(crontab(), 2 * HOUR, timedelta(0)) == NOON.replace(microsecond=0)


def test_a_schedule_keeps_its_clock() -> None:
    when = with_app(crontab(nowfun=lambda: NOON))
    ticks.after(when, NOON)
    assert when.now() == NOON

"""The scheduler: under which id a tick is sent, what is kept in Redis, and what counts as an outage."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.beat import BeatLazyFunc
from celery.exceptions import QueueNotFound
from celery.schedules import crontab, schedule
from kombu.exceptions import EncodeError, OperationalError
from redbeat.schedules import rrule

from holdfast.beat import Scheduler, _may_pass
from holdfast.publisher.errors import Blocked, Refused, TimedOut, Unroutable
from holdfast.schedule.entry import StoredEntry
from holdfast.schedule.ticks import UTC

NOON = datetime(2026, 11, 23, 12, 0, 30, 250_000, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def app() -> Celery:
    app = Celery("unit", broker="memory://", set_as_current=False)
    app.conf.update(timezone="Europe/Berlin")
    app.conf.redbeat_redis_url = "redis://unused.invalid"
    return app


def entry(app: Celery, **fields: Any) -> StoredEntry:
    """Make an entry that is in the application's configuration."""
    given: dict[str, Any] = {"task": "t", "schedule": 20, **fields}
    app.conf.beat_schedule["one"] = given
    return StoredEntry("one", app=app, **given)


def sent(app: Celery, one: StoredEntry, scheduled: datetime, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the scheduler hands to Celery for a tick."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(app, "send_task", lambda *args, **options: given.append({"args": args, **options}))
    scheduler: Any = Scheduler.__new__(Scheduler)
    scheduler.app = app
    scheduler._send(one, scheduled)
    return given[0]


def test_the_id_of_a_tick_is_made_of_its_instant(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(moment: datetime) -> str:
        return str(sent(app, entry(app), moment, monkeypatch)["task_id"])

    assert named(NOON) == named(NOON.astimezone(BERLIN))
    assert named(NOON) != named(NOON + timedelta(microseconds=1))
    twice = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
    assert named(twice) != named(twice.replace(fold=1))


def test_a_chosen_id_and_headers_are_kept(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    one = entry(app, options={"task_id": "mine", "headers": {"a": 1}})
    given = sent(app, one, NOON, monkeypatch)
    assert (given["task_id"], given["headers"]) == ("mine", {"a": 1, "celery_beat_task": True})
    assert one.options == {"task_id": "mine", "headers": {"a": 1}}


def test_lazy_arguments_are_made_for_each_tick(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(9))
    one = entry(app, args=(BeatLazyFunc(next, numbers),), kwargs={"n": BeatLazyFunc(next, numbers)})
    assert [sent(app, one, NOON, monkeypatch)["args"][1:] for _ in range(2)] == [([0], {"n": 1}), ([2], {"n": 3})]


# -- in Redis


def again(app: Celery, one: StoredEntry) -> StoredEntry:
    """Write an entry as text and read it."""
    return StoredEntry.read(app, one._definition(), one._ticked(NOON), None)


class OwnClass(crontab):
    """A schedule class of an application."""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("args", [uuid4(), Decimal("1.10")]),
        ("args", [datetime(2026, 1, 2, 3), NOON, NOON.date()]),  # noqa: DTZ001 - without a zone, on purpose
        ("kwargs", {"a": {1, 2}, "b": b"\xff"}),
        ("options", {"expires": timedelta(seconds=3)}),
        ("schedule", OwnClass(minute=3)),
        ("schedule", crontab(nowfun=lambda: NOON)),
        ("schedule", rrule("DAILY", dtstart=NOON.astimezone(BERLIN), app=Celery("unit", set_as_current=False))),
    ],
)
def test_what_redis_cannot_hold_exactly_is_served_from_the_configuration(
    app: Celery, field: str, value: object
) -> None:
    one = entry(app, **{field: value})
    assert getattr(again(app, one), field) is app.conf.beat_schedule["one"][field]


@pytest.mark.parametrize("when", [crontab(minute="*/5", hour=3), schedule(0.25), schedule(60, relative=True)], ids=repr)
def test_redbeats_own_tools_read_what_redis_can_hold(app: Celery, when: Any) -> None:
    definition = entry(app, schedule=when, args=(1, "two"), options={"queue": "q"})._definition()
    known = StoredEntry.decode_definition(definition)
    assert known["schedule"] == when
    assert (known["args"], known["options"], known["enabled"]) == ([1, "two"], {"queue": "q"}, True)


def test_an_entry_made_at_run_time_says_what_redis_cannot_hold(app: Celery) -> None:
    with pytest.raises(ValueError, match=r"its args .* cannot be kept in Redis, put the entry into beat_schedule"):
        StoredEntry("other", app=app, task="t", schedule=crontab(), args=[uuid4()])._definition()


def test_times_are_kept_in_utc(app: Celery) -> None:
    second = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)
    one = entry(app)
    assert StoredEntry.read(app, one._definition(), one._ticked(second), None).last_run_at == second.astimezone(UTC)


def test_another_schedule_counts_from_now(app: Celery) -> None:
    before = entry(app, schedule=crontab(minute=0, hour=10))
    after = entry(app, schedule=crontab(minute=0, hour=8))
    text = json.dumps(json.loads(before._definition())["schedule"], sort_keys=True)
    assert StoredEntry.read(app, before._definition(), before._ticked(NOON), text).last_run_at == NOON
    assert StoredEntry.read(app, after._definition(), after._ticked(NOON), text).last_run_at is None


# -- what is an outage


@pytest.mark.parametrize(
    "error",
    [
        Blocked("alarm"),
        TimedOut("late"),
        Unroutable("no queue"),
        OperationalError("away"),
        ConnectionError(),
        OSError(),
    ],
    ids=repr,
)
def test_an_outage_keeps_the_tick(error: Exception) -> None:
    assert _may_pass(error)


@pytest.mark.parametrize(
    "error", [Refused("too large"), EncodeError("no JSON"), QueueNotFound("q"), TypeError(), ValueError()], ids=repr
)
def test_what_no_broker_will_take_is_given_up(error: Exception) -> None:
    assert not _may_pass(error)

"""The rows of django-celery-beat as entries: what each field of a row means for the schedule."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from django.apps import apps
from django.db import OperationalError
from django.utils import timezone
from django_contract import tables

from holdfast.schedule import rows, ticks
from holdfast.schedule.entry import StoredEntry
from holdfast.schedule.rows import Moment, Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["tables"]  # a fixture

MODELS = ("ClockedSchedule", "CrontabSchedule", "IntervalSchedule", "PeriodicTask", "SolarSchedule")
ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule = (
    apps.get_model("django_celery_beat", name) for name in MODELS
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setattr(rows, "LOOK", 0.0)
    app = Celery("unit", broker="memory://", set_as_current=False)
    app.conf.redbeat_redis_url = "redis://unused.invalid"
    yield app
    PeriodicTask.objects.all().delete()


def every(seconds: int) -> Any:
    return IntervalSchedule.objects.get_or_create(every=seconds, period="seconds")[0]


def add(name: str, /, changed: datetime | None = None, **fields: Any) -> None:
    PeriodicTask.objects.create(name=name, task="t", **fields)
    if changed:
        PeriodicTask.objects.filter(name=name).update(date_changed=changed)


def read(app: Celery, **configured: Any) -> Rows:
    found = Rows(app)
    assert found.look(configured)
    return found


def first(app: Celery, name: str) -> datetime | None:
    """Return the first tick of a row."""
    fields = read(app).entries[name]
    return ticks.after(StoredEntry(name, app=app, **fields).schedule, fields["last_run_at"])


def test_a_row_is_an_entry(app: Celery) -> None:
    end = timezone.now() + timedelta(days=1)
    add("one", interval=every(7), args="[1]", kwargs='{"a": 2}', queue="q", priority=3, headers='{"h": 1}', expires=end)
    entry = read(app).entries["one"]
    assert entry["schedule"].run_every == timedelta(seconds=7)
    assert (entry["task"], entry["args"], entry["kwargs"]) == ("t", [1], {"a": 2})
    headers = {"h": 1, "periodic_task_name": "one"}
    assert entry["options"] == {"queue": "q", "priority": 3, "expires": end, "headers": headers}


def test_what_is_off_not_begun_or_over_has_no_place(app: Celery) -> None:
    hour = timedelta(hours=1)
    add("off", interval=every(1), enabled=False)
    add("later", interval=every(1), start_time=timezone.now() + hour)
    add("over", interval=every(1), expires=timezone.now() - hour)
    add("ran", interval=every(1), one_off=True, total_run_count=1)
    assert read(app).entries == {}


def test_a_row_that_cannot_be_served_is_named_and_the_others_go_on(app: Celery) -> None:
    add("good", interval=every(1))
    add("no-json", interval=every(1), args="[")
    add("nothing", interval=every(1))
    PeriodicTask.objects.filter(name="nothing").update(interval=None)
    found = read(app)
    assert (set(found.entries), set(found.refused)) == ({"good"}, {"no-json", "nothing"})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, NOON + timedelta(seconds=60)),
        ({"last_run_at": NOON - timedelta(seconds=20)}, NOON + timedelta(seconds=40)),
        ({"start_time": NOON - timedelta(seconds=90)}, NOON + timedelta(seconds=30)),
        ({"start_time": NOON + timedelta(days=1)}, NOON + timedelta(days=1)),
        ({"start_time": NOON + timedelta(days=1), "last_run_at": NOON}, NOON + timedelta(days=1)),
        ({"one_off": True}, NOON + timedelta(seconds=60)),
        ({"one_off": True, "start_time": NOON + timedelta(days=1)}, NOON + timedelta(days=1)),
    ],
    ids=["from its making", "from its last run", "on its grid", "start", "start anew", "once", "once at its start"],
)
def test_when_an_interval_begins(app: Celery, fields: dict[str, Any], expected: datetime) -> None:
    add("one", NOON, interval=every(60), **fields)
    assert first(app, "one") == expected


def test_when_the_other_kinds_begin(app: Celery) -> None:
    nine = CrontabSchedule.objects.create(minute="0", hour="9", timezone="Asia/Tokyo")
    add("crontab", NOON, crontab=nine)
    add("start", NOON, crontab=nine, start_time=NOON + timedelta(hours=12))
    add("clocked", NOON, clocked=ClockedSchedule.objects.create(clocked_time=NOON - timedelta(days=2)), one_off=True)
    sunrise = SolarSchedule.objects.create(event="sunrise", latitude="52.5", longitude="13.4")
    add("solar", NOON, solar=sunrise)
    assert first(app, "crontab") == first(app, "start") == NOON + timedelta(hours=12)
    assert first(app, "clocked") == NOON - timedelta(days=2)
    assert "ephem" in f"{read(app).refused['solar']}"  # what Celery needs for it is not installed here


def test_a_configured_entry_wins_and_a_disabled_row_disables_it(app: Celery) -> None:
    configured = {"same": {"task": "mine"}, "off": {"task": "mine"}}
    add("same", interval=every(1))
    add("off", interval=every(1), enabled=False)
    add("row", interval=every(1))
    joined = read(app, **configured).beside(configured)
    assert {name: entry["task"] for name, entry in joined.items()} == {"same": "mine", "row": "t"}


def test_rows_are_read_when_they_have_changed(app: Celery) -> None:
    add("one", interval=every(1))
    found = read(app)
    assert not found.look({})
    add("two", interval=every(1))
    assert found.look({})
    PeriodicTask.objects.get(name="one").delete()
    assert found.look({})
    assert set(found.entries) == {"two"}
    found.forget()
    assert found.look({})


def test_what_ran_is_written_and_is_no_change(app: Celery) -> None:
    add("one", interval=every(1))
    found = read(app)
    found.ran("one", NOON)
    found.ran("one", NOON + timedelta(seconds=1))
    found.ran("of beat_schedule", NOON)
    assert not found.look({})
    row = PeriodicTask.objects.get(name="one")
    assert (row.last_run_at, row.total_run_count) == (NOON + timedelta(seconds=1), 2)


def test_what_ran_once_is_disabled_unless_it_was_changed_since(app: Celery) -> None:
    add("done", NOON, interval=every(1), one_off=True)
    add("again", interval=every(1), one_off=True)
    found = read(app)
    for name in ("done", "again"):
        found.ran(name, NOON)
    PeriodicTask.objects.get(name="again").save()
    assert found.look({})
    assert set(found.entries) == {"again"}
    assert not PeriodicTask.objects.get(name="done").enabled


def test_a_database_that_is_away_leaves_what_is_known(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add("one", interval=every(1))
    found = read(app)
    found.ran("one", NOON)

    def away() -> None:
        raise OperationalError("away")

    with monkeypatch.context() as broken:
        broken.setattr("django.db.close_old_connections", away)
        assert not found.look({})
        assert not found.look({})
    assert caplog.text.count("cannot be read or written now") == 1
    assert (set(found.entries), found.known) == ({"one"}, True)
    found.look({})
    assert PeriodicTask.objects.get(name="one").total_run_count == 1


def test_an_application_without_the_tables_has_no_rows(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "django_celery_beat.models")
    found = Rows(app)
    assert (found.look({}), found.known, found.beside({"a": 1})) == (False, True, {"a": 1})


def test_a_changed_schedule_counts_anew(app: Celery) -> None:
    def definition(hour: str, zone: str) -> tuple[StoredEntry, str]:
        when = CrontabSchedule(minute="0", hour=hour, timezone=zone)
        row = PeriodicTask(name="one", task="t", crontab=when, date_changed=NOON)
        app.conf.beat_schedule["one"] = Rows(app)._entry(row, None)
        entry = StoredEntry("one", app=app, **app.conf.beat_schedule["one"])
        return entry, entry._definition()

    entry, before = definition("9", "UTC")
    ran = json.dumps(json.loads(before)["schedule"], sort_keys=True)
    assert StoredEntry.read(app, before, entry._ticked(NOON), ran).last_run_at == NOON
    assert StoredEntry.read(app, before, entry._ticked(NOON), "beat_schedule").last_run_at == NOON  # as 0.1 wrote it
    for other in (("8", "UTC"), ("9", "Asia/Tokyo")):
        _, after = definition(*other)
        assert StoredEntry.read(app, after, entry._ticked(NOON), ran).last_run_at is None


def test_a_moment_is_one_tick(app: Celery) -> None:
    entry = StoredEntry("one", app=app, task="t", schedule=Moment(NOON))
    assert entry.beginning() < NOON == ticks.after(entry.schedule, entry.beginning())
    hour = timedelta(hours=1)
    assert entry.upcoming(entry.beginning(), hour, None) == NOON  # however long ago
    assert entry.upcoming(NOON, hour, None) is None
    coming = Moment(datetime.now(UTC) + hour)
    later = StoredEntry("two", app=app, task="t", schedule=coming)
    assert abs((later.upcoming(later.beginning(), hour, None) or NOON) - coming.at) < timedelta(seconds=1)

"""The rows of django-celery-beat under two beats: each tick sent once, whoever dies, and changes while they run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from .postgres import for_django, scratch_schema
from .rig import APPS
from .stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from .rig import Process, Rig
    from .stack import Stack

pytestmark = pytest.mark.stack

SETUP = """
import django; django.setup()
from datetime import timedelta
from django.utils.timezone import now
from django_celery_beat.models import *
def add(name, when, **fields):
    kind = type(when).__name__.removesuffix("Schedule").lower()
    fields |= {kind: when, "args": f'["{name}"]', "queue": QUEUE}
    PeriodicTask.objects.create(name=name, task="scratch.echo", **fields)
def every(seconds):
    return IntervalSchedule.objects.get_or_create(every=seconds, period="seconds")[0]
"""


class Rows:
    """The tables of django-celery-beat in a schema of their own, and beats that read them."""

    def __init__(self, rig: Rig, database: dict[str, object]) -> None:
        self.rig = rig
        self.environment = {"DJANGO_SETTINGS_MODULE": "rows_settings", "ROWS_DATABASE": json.dumps(database)}
        self.python("from django.core.management import call_command; call_command('migrate', verbosity=0)")

    def python(self, code: str) -> str:
        """Run Python code with the models and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", f"QUEUE = {self.rig.queue!r}{SETUP}{code}"],
            env=os.environ | self.environment | {"PYTHONPATH": str(APPS)},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def beat(self, name: str) -> AbstractContextManager[Process]:
        """Run a beat until the end of the block."""
        options = ("beat", "--loglevel", "INFO", "--pidfile=", "--schedule", name)
        return self.rig.process(*options, SUPERVISOR_PROCESS_NAME=name, **self.environment)

    def ran(self, name: str) -> int:
        """Return how many tasks of an entry were executed."""
        return self.rig.runs("echo")[name]

    def ids(self, name: str) -> list[str]:
        """Return the task ids of an entry's executions."""
        return [line[2] for line in self.rig.lines("echo") if line[1] == name]


@pytest.fixture
def rows(rig: Rig, stack: Stack) -> Iterator[Rows]:
    with scratch_schema(stack.settings) as engine:
        yield Rows(rig, for_django(engine))


def instants(entry: str, *beats: Process) -> list[datetime]:
    """Return the instants of the ticks that beats say they have sent, in order."""
    pattern = re.compile(rf"sending {entry} \(.*scheduled for (\S+)")
    return sorted({datetime.fromisoformat(found) for one in beats for found in pattern.findall(one.text)})


def more(rows: Rows, name: str, count: int) -> Callable[[], bool]:
    """Return a condition: so many more ticks than now."""
    before = rows.ran(name)
    return lambda: rows.ran(name) >= before + count


def test_no_tick_is_lost_or_doubled_when_the_holder_is_killed(rows: Rows) -> None:
    rows.python("add('two', every(2)); add('minute', CrontabSchedule.objects.create(timezone='Asia/Tokyo'))")
    with rows.rig.worker(2), rows.beat("one") as one:
        one.wait_for("holds the lock")
        with rows.beat("two") as two:
            wait_until(more(rows, "two", 3), "it ticks")
            assert "holds the lock" not in two.text
            one.end()
            two.wait_for("holds the lock")
            wait_until(more(rows, "two", 20), "missed ticks follow, and new ones")
            wait_until(lambda: rows.ran("minute") >= 1, "the crontab ticks")
            two.end()
        rows.rig.drained()
        times = instants("two", one, two)
        assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(seconds=2)}
        ids = rows.ids("two")
        assert len(times) - 1 <= len(set(ids)) <= len(times)  # the second kill may fall between the log and the send
        # a beat killed between the acknowledgement and its record leaves one tick to be sent again, under the same id
        assert len(ids) - len(set(ids)) <= 1
        assert {time.second for time in instants("minute", one, two)} == {0}


@pytest.mark.long
def test_a_change_of_the_rows_is_seen_while_beat_runs(rows: Rows) -> None:
    with rows.rig.worker(2), rows.beat("one") as one:
        one.wait_for("holds the lock")
        rows.python("add('new', every(1))")
        wait_until(more(rows, "new", 3), "a new row ticks")
        rows.python("PeriodicTask.objects.filter(name='new').get().delete(); add('other', every(1))")
        wait_until(more(rows, "other", 2), "another one ticks")
        left = rows.ran("new")
        wait_until(more(rows, "other", 4), "it goes on")
        assert rows.ran("new") <= left + 1  # sent before, executed since
        rows.python(
            "one = PeriodicTask.objects.get(name='other'); one.enabled = False; one.save(); add('last', every(1))"
        )
        wait_until(more(rows, "last", 2), "the row after it ticks")
        left = rows.ran("other")
        wait_until(more(rows, "last", 4), "it goes on")
        assert rows.ran("other") <= left + 1
        count = "print(PeriodicTask.objects.get(name='last').total_run_count)"
        wait_until(lambda: int(rows.python(count)) > 4, "the admin page shows the runs")


@pytest.mark.long
def test_a_row_that_runs_once_runs_once(rows: Rows) -> None:
    rows.python(
        "add('clocked', ClockedSchedule.objects.create(clocked_time=now() - timedelta(seconds=40)), one_off=True)\n"
        "add('once', every(1), one_off=True)\n"
        "add('late', every(1), start_time=now() + timedelta(hours=1))\n"
        "add('gone', every(1), expires=now() - timedelta(hours=1))\n"
        "add('bad', every(1)); PeriodicTask.objects.filter(name='bad').update(args='no JSON')\n"
        "add('tick', every(1))"
    )
    enabled = "print(sorted(PeriodicTask.objects.filter(enabled=True).values_list('name', flat=True)))"
    with rows.rig.worker(2):
        with rows.beat("one") as one:
            wait_until(lambda: rows.ran("once") + rows.ran("clocked") == 2, "both run")
            # one may be at hand in the other child; what was sent later was sent after both were recorded
            wait_until(more(rows, "tick", 3), "later ticks were sent")
            one.wait_for("bad is left out")
            one.end()
        with rows.beat("two"):
            wait_until(more(rows, "tick", 40), "another beat takes over", 180)
            wait_until(lambda: rows.python(enabled) == "['bad', 'gone', 'late', 'tick']", "both are disabled")
        rows.rig.drained()
        assert {name: rows.ran(name) for name in ("clocked", "once", "late", "gone", "bad")} == {
            "clocked": 1, "once": 1, "late": 0, "gone": 0, "bad": 0,
        }  # fmt: skip

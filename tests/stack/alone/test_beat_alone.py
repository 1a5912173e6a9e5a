"""Beat with real processes on a Redis of the test's own: what it sends, and what it does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import redis

from ..rig import APPS, Process, celery
from ..servers import answers, rules
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.stack

START = 120.0  # seconds for an interpreter to start on a busy machine


@dataclass
class Alone:
    """A Redis server in a container, and beats that use it as broker and for their schedule."""

    folder: Path
    url: str

    @property
    def clock(self) -> Path:
        """The file that says by how many seconds the clock of new and running beats is wrong."""
        return self.folder / "clock"

    def set_clock(self, seconds: float) -> None:
        """Set the clock of running beats, which read the file whenever they like: it is there in full at any time."""
        new = self.clock.with_suffix(".new")
        new.write_text(str(seconds), encoding="utf-8")
        new.replace(self.clock)

    def beat(self, *entries: str, clock: Path | None = None) -> AbstractContextManager[Process]:
        """Run a beat with some of the application's entries until the end of the block."""
        environment = {
            **os.environ,
            "BEAT_REDIS": self.url,
            "BEAT_SCHEDULE": f"{self.url.replace('redis://', 'redis://beat:beat@')}/0",
            "BEAT_ENTRIES": ",".join(entries),
            "BEAT_CLOCK": str(clock or self.clock),
            "HOLDFAST_PULSE_DIR": str(self.folder / "pulse"),
            "PYTHONPATH": str(APPS),
            "PYTHONUNBUFFERED": "1",
        }
        return celery("beat_app", "beat", "--loglevel", "INFO", folder=self.folder, environment=environment)

    def client(self, db: int = 0) -> Any:
        """Return a client of the server: 0 is the schedule, 1 the broker."""
        return redis.Redis.from_url(f"{self.url}/{db}", decode_responses=True)

    def ids(self, entry: str) -> list[str]:
        """Return the task ids of what was sent, in order."""
        return [json.loads(text)["headers"]["id"] for text in reversed(self.client(1).lrange(entry, 0, -1))]

    def bodies(self, entry: str) -> list[Any]:
        """Return the messages that were sent, in order."""
        return [json.loads(text) for text in reversed(self.client(1).lrange(entry, 0, -1))]


def docker(*arguments: str) -> str:
    """Run docker and return what it printed."""
    return subprocess.run(["docker", *arguments], check=True, text=True, capture_output=True).stdout.strip()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    """A Redis server for this test, of the image that the stack runs."""
    image = docker("image", "ls", "--filter", "reference=redis", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    assert image, "found no image of Redis; `make up` brings it"
    options = ("--rm", "--detach", "--publish", "127.0.0.1::6379")
    container = docker("run", *options, image[0], "redis-server", "--save", "", "--protected-mode", "no")
    try:
        address = docker("port", container, "6379/tcp").splitlines()[0]
        server = Alone(tmp_path, f"redis://{address}")
        wait_until(lambda: answers(server.client()), "Redis answers", 60)
        server.client().execute_command("ACL", "SETUSER", "beat", "on", ">beat", *rules("beat"))
        yield server
        assert server.client().acl_log() == []  # its login needs no more rights than the templates give it
    finally:
        docker("rm", "--force", "--volumes", container)


def instants(entry: str, *beats: Process) -> list[datetime]:
    """Return the instants of the ticks that beats say they have sent, in order."""
    pattern = re.compile(rf"sending {entry} \(.*scheduled for (\S+)")
    return [datetime.fromisoformat(found) for one in beats for found in pattern.findall(one.text)]


def count_exactly(alone: Alone, seconds: float) -> None:
    """Run intervals for so long; each tick is there once, on its grid, and none before its time."""
    every = {"quarter": 0.25, "half": 0.5, "odd": 1.5, "second": 1, "two": 2, "relative": 2}
    with alone.beat(*every) as beat:
        wait_until(lambda: all(map(alone.ids, every)), "it ticks", START)
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        wait_until(lambda: min(instants(name, beat)[-1] for name in every) >= end, "all tick on", seconds + 60)
        assert beat.alive
    for name, interval in every.items():
        said, ids = instants(name, beat), alone.ids(name)
        assert {later - earlier for earlier, later in pairwise(said)} == {timedelta(seconds=interval)}, name
        assert said[-1] <= datetime.now(UTC), name
        assert len(ids) == len(set(ids)), name
        assert len(said) - len(ids) in {0, 1}, "the beat was killed, maybe between saying and sending"


def test_every_interval_has_exactly_its_ticks(alone: Alone) -> None:
    count_exactly(alone, 10)


@pytest.mark.long
def test_every_interval_has_exactly_its_ticks_for_a_minute(alone: Alone) -> None:
    count_exactly(alone, 60)


def test_an_entry_that_cannot_be_served_leaves_the_others_alone(alone: Alone) -> None:
    bad = ("too-short", "never", "between", "text", "unknown-field", "broken")
    good = ("uuid", "lazy", "tokyo", "own-clock", "expires", "days", "three", "second", "disabled")
    alone.client().hset("redbeat:foreign", mapping={"definition": '{"name": "foreign", "schedule": {"__type__": "?"}}'})
    alone.client().hset("redbeat:garbage", mapping={"definition": "}{"})
    alone.client().zadd("redbeat::schedule", {"redbeat:foreign": 1, "redbeat:garbage": 1, "redbeat:gone": 1})
    with alone.beat(*good, *bad, "unserialisable", "nowhere") as beat:
        wait_until(lambda: len(alone.ids("second")) >= 10, "the good ones tick", START)
        wait_until(lambda: len(alone.ids("three")) >= 3, "so does the one with an end", 30)
        assert beat.alive
        assert len(alone.ids("three")) == 3  # and beat lives on after the last
        for name in (*bad, "foreign", "garbage"):
            assert beat.text.count(f"the entry redbeat:{name} is left out") == 1, name
            assert alone.ids(name) == []
        for name in ("unserialisable", "nowhere"):
            assert f"of {name} can never be sent, it is given up" in beat.text
        assert "redbeat:gone" not in alone.client().zrange("redbeat::schedule", 0, -1)
        assert alone.ids("disabled") == []
        for name in ("uuid", "lazy", "expires"):
            ids = alone.ids(name)
            assert len(ids) == len(set(ids)) >= 8
    headers = alone.bodies("uuid")[0]["headers"]
    assert "6f1f2a4e-6f4b-4e0a-9d9e-0f3d1b5c7a11" in headers["argsrepr"]
    assert "Decimal('1.10')" in headers["kwargsrepr"]
    assert alone.bodies("lazy")[0]["headers"]["argsrepr"] == "['7']"


def test_a_clock_that_was_set_silences_nothing(alone: Alone) -> None:
    def goes_on(beat: Process, ticks: int) -> None:
        before = len(alone.ids("second"))
        wait_until(lambda: len(alone.ids("second")) >= before + ticks, "it ticks on", 60)
        assert beat.alive

    with alone.beat("second", "two") as beat:
        wait_until(lambda: len(alone.ids("second")) >= 3, "it ticks", START)
        for offset in (7200, 0, -7200, 0, 1e6, 0):
            before = len(alone.ids("second"))
            alone.set_clock(offset)
            goes_on(beat, 5)
            assert len(alone.ids("second")) < before + 60  # no flood of ticks that were not missed
        assert beat.text.count("in between only the latest is sent") >= 5
    assert len(alone.ids("second")) == len(set(alone.ids("second")))


def test_beats_with_different_clocks_take_turns(alone: Alone) -> None:
    wrong = alone.folder / "wrong"
    wrong.write_text("7200", encoding="utf-8")
    with alone.beat("second") as one:
        one.wait_for("holds the lock", START)
        with alone.beat("second", clock=wrong) as two:
            wait_until(lambda: len(alone.ids("second")) >= 5, "it ticks", 60)
            one.end()
            two.wait_for("holds the lock", START + 40)
            two.wait_for("s ahead of Redis's", 60)
            (ahead,) = re.findall(r"is (-?\d+) s ahead of Redis's", two.text)
            assert abs(int(ahead) - 7200) < 30, "but for the time of a round trip"
            wait_until(lambda: len(instants("second", two)) >= 5, "it ticks, ahead of time", 60)
        with alone.beat("second") as three:
            three.wait_for("holds the lock", START + 40)
            three.wait_for("in the future: it counts from now", 60)
            before = len(alone.ids("second"))
            wait_until(lambda: len(alone.ids("second")) >= before + 5, "it ticks", 60)


def test_a_lock_without_an_end_is_taken_over(alone: Alone) -> None:
    alone.client().set("redbeat::lock", "of a beat that is gone")  # its end is in two hours, or there is none
    with alone.beat("second") as beat:
        beat.wait_for("holds the lock", START + 45)


def test_what_is_changed_while_beat_runs_is_taken_up(alone: Alone) -> None:
    from celery import Celery
    from celery.schedules import schedule
    from redbeat import RedBeatSchedulerEntry

    app = Celery("other", set_as_current=False)
    app.conf.redbeat_redis_url = f"{alone.url}/0"

    def make(name: str, seconds: float, **fields: Any) -> Any:
        return RedBeatSchedulerEntry(
            name, f"other.{name}", schedule(seconds, app=app), options={"queue": "second"}, app=app, **fields
        ).save()

    def runs(name: str) -> int:
        return sum(body["headers"]["task"] == f"other.{name}" for body in alone.bodies("second"))

    with alone.beat("second") as beat:
        wait_until(lambda: len(alone.ids("second")) >= 1, "it ticks", START)
        make("removed", 0.5)
        make("off", 0.5)
        make("slower", 0.5)
        wait_until(lambda: min(map(runs, ("removed", "off", "slower"))) >= 3, "new entries tick", 60)
        RedBeatSchedulerEntry.from_key("redbeat:removed", app=app).delete()
        make("off", 0.5, enabled=False)
        make("slower", 3600)
        at = {name: runs(name) for name in ("removed", "off", "slower")}
        before = len(alone.ids("second"))
        wait_until(lambda: len(alone.ids("second")) >= before + 8, "it ticks on", 60)
        for name, count in at.items():
            assert runs(name) <= count + 1, name  # one may have been under way
        assert alone.client().exists("redbeat:removed") == 0
        count = runs("off")
        began = time.monotonic()
        make("off", 0.5)
        wait_until(lambda: runs("off") >= count + 2, "it is on again", 60)
        make("slower", 0.5)
        wait_until(lambda: runs("slower") >= at["slower"] + 3, "it is quick again", 60)
        # What was off makes nothing up: two ticks a second since then, and those under way. What was slower may: beat
        # looks at it again when it is due or at the next review, so a change taken back by then did not happen.
        assert runs("off") - count <= 2 * (time.monotonic() - began) + 3
        assert beat.alive


def test_thousands_of_entries_cost_few_round_trips(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery import Celery

    from holdfast.beat import Scheduler

    monkeypatch.setenv("HOLDFAST_PULSE_DIR", str(alone.folder / "pulse"))
    client = alone.client()

    def start(entries: dict[str, Any]) -> set[str]:
        """Run a scheduler of these entries until it has written them; return what it has in its order."""
        app = Celery("many", set_as_current=False)
        app.conf.redbeat_redis_url = f"{alone.url}/0"
        app.conf.beat_schedule = entries
        before = client.info("commandstats")
        scheduler = Scheduler(app)
        scheduler.tick()
        scheduler.close()
        assert set(scheduler.refused) == {"redbeat:bad"} & {f"redbeat:{name}" for name in entries}
        after = client.info("commandstats")
        for command in ("exec", "zadd", "zrem", "del"):
            name = f"cmdstat_{command}"
            assert after.get(name, {}).get("calls", 0) - before.get(name, {}).get("calls", 0) < 20, command
        return set(client.zrange("redbeat::schedule", 0, -1)) - {"redbeat:celery.backend_cleanup"}

    many: dict[str, Any] = {f"e{number}": {"task": "t", "schedule": 3600.0} for number in range(1200)}
    many["bad"] = {"task": "t", "schedule": "never"}
    names = {f"redbeat:{name}" for name in many if name != "bad"}
    start(many)
    meta = client.hget("redbeat:e700", "meta").replace('"total_run_count": 0', '"total_run_count": 7')
    client.hset("redbeat:e700", "meta", meta)
    assert start(many) == names
    assert client.hget("redbeat:e700", "meta") == meta
    assert start({"e700": many["e700"]}) == {"redbeat:e700"}
    assert client.keys("redbeat:e*") == ["redbeat:e700"]
    assert client.hget("redbeat:e700", "meta") == meta

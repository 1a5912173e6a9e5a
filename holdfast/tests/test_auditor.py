"""What the auditor makes of notes, queues and results."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from threading import Event
from time import time
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.audit import auditor as audit_module
from holdfast.audit import store
from holdfast.audit.auditor import MARGIN, Auditor, start
from holdfast.audit.latest import Latest, Verdict
from holdfast.audit.marks import Mark

NOW = 60.0 * int(time() // 60)
EARLY = int(NOW // 60) - 20  # its end is 19 minutes ago: tasks of it are looked for


class Notes:
    """Stands in for the Redis with the notes: sets and sorted sets, with the commands that the auditor uses."""

    def __init__(self) -> None:
        self.sets: dict[str, set[str]] = defaultdict(set)
        self.sorted: dict[str, dict[str, float]] = defaultdict(dict)
        self.answers: list[Any] = []

    def note(self, kind: str, *marks: Mark) -> None:
        for mark in marks:
            self.sets[store.key(kind, mark.minute)].add(mark.member)
            if kind == store.ACKNOWLEDGED:
                self.sorted[store.BUCKETS][str(mark.minute)] = mark.minute

    def pipeline(self, **_: object) -> Notes:
        self.answers = []
        return self

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self) -> list[Any]:
        return self.answers

    def smembers(self, key: str) -> set[str]:
        return set(self.sets[key])

    def sadd(self, key: str, *members: str) -> None:
        self.sets[key] |= set(members)

    def sdiff(self, one: str, other: str) -> set[str]:
        return self.sets[one] - self.sets[other]

    def _stored(self, to: str, members: set[str]) -> None:
        self.sets[to] = members
        self.answers.append(len(members))

    def sinterstore(self, to: str, one: str, other: str) -> None:
        self._stored(to, self.sets[one] & self.sets[other])

    def sdiffstore(self, to: str, one: str, other: str) -> None:
        self._stored(to, self.sets[one] - self.sets[other])

    def expire(self, key: str, seconds: int) -> None:
        assert seconds > 0, key

    def delete(self, key: str) -> None:
        self.sets.pop(key, None)

    def zrangebyscore(self, key: str, _: str, most: float) -> list[str]:
        found = sorted(self.sorted[key].items(), key=lambda item: item[1])
        return [member for member, score in found if score <= most]

    def zrange(self, key: str, *_: int, withscores: bool) -> list[tuple[str, float]]:
        assert withscores
        return list(self.sorted[key].items())

    def zrem(self, key: str, *members: int) -> None:
        for member in members:
            self.sorted[key].pop(str(member))


class Results:
    """Stands in for the result store."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def get_key_for_task(self, task_id: str) -> str:
        return task_id

    def mget(self, keys: list[str]) -> list[str | None]:
        return [json.dumps({"status": self.states[key]}) if key in self.states else None for key in keys]

    def decode(self, value: str) -> Any:
        return json.loads(value)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def auditor(notes: Notes) -> Auditor:
    """An auditor whose only queue has given out everything."""
    notes.sorted[store.EMPTY] = {"default": NOW + 3600}
    app: Any = SimpleNamespace(backend=Results(), amqp=SimpleNamespace(queues={"default": None}))
    return Auditor(app, notes)


def tasks(count: int, minute: int = EARLY) -> list[Mark]:
    return [Mark(minute, f"+{minute * 60}.5 task-{minute}-{number}") for number in range(count)]


def sure(auditor: Auditor) -> tuple[int, int]:
    """Look twice, as it takes, and return the numbers of unaccounted and undecided tasks."""
    assert auditor.look(NOW).unaccounted == 0, "one look may come in between two notes"
    verdict = auditor.look(NOW + 61)
    return verdict.unaccounted, verdict.undecided


def test_what_has_both_notes_is_taken_out_in_whatever_order_they_came(auditor: Auditor, notes: Notes) -> None:
    first, second = tasks(2)
    notes.note(store.ENDED, first, second)
    auditor.look(NOW)
    notes.note(store.ACKNOWLEDGED, first, second)
    assert sure(auditor) == (0, 0)
    assert not notes.sets[store.key(store.ACKNOWLEDGED, EARLY)] | notes.sets[store.key(store.ENDED, EARLY)]
    assert not notes.sorted[store.BUCKETS], "the bucket is forgotten"


def test_a_minute_that_is_no_number_hides_nothing(auditor: Auditor, notes: Notes) -> None:
    """Whoever may add notes may add this."""
    notes.note(store.ACKNOWLEDGED, *tasks(1))
    notes.sorted[store.BUCKETS]["soon"] = 0.0
    assert sure(auditor) == (1, 0)


def test_a_look_that_fails_does_not_end_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    done = Event()

    def look(_: Auditor) -> Verdict:
        looks.append(time())
        if len(looks) == 1:
            raise TypeError("a note of an unknown kind")
        return Verdict(at=17.0, unaccounted=0, undecided=0, oldest=0.0)

    def active() -> bool:
        if len(looks) == 2:
            done.set()  # only now: the thread has kept the verdict, and later tests find none
            Event().wait()  # it has nothing left to do
        return True

    monkeypatch.setattr(Latest, "verdict", None)
    monkeypatch.setattr(Auditor, "look", look)
    monkeypatch.setattr(audit_module, "share", lambda _: 1.0)
    start(SimpleNamespace(conf={"holdfast_audit_after": 0.1}), Notes, active)  # type: ignore[arg-type]  # all it asks
    assert done.wait(30), "it looked again"


def test_what_nobody_ended_is_counted_named_and_stays(
    auditor: Auditor, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    notes.note(store.ACKNOWLEDGED, *tasks(5))
    notes.note(store.ENDED, *tasks(2))
    assert sure(auditor) == (3, 0)
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.findall(r"task-\d+-\d", line) == [mark.task_id for mark in tasks(5)[2:]]
    notes.sorted[store.EMPTY].clear()
    assert auditor.look(NOW + 120).unaccounted == 3
    notes.note(store.ENDED, *tasks(5))  # they were not lost after all
    assert auditor.look(NOW + 180).unaccounted == 0


def test_a_task_is_looked_for_after_its_time_only(auditor: Auditor, notes: Notes) -> None:
    notes.note(store.ACKNOWLEDGED, *tasks(1, int(NOW // 60) - 5), *tasks(1, int(NOW // 60) + 60))
    assert sure(auditor) == (0, 0)
    assert auditor.look(NOW).oldest == 300, "the delayed one is not open yet"


def test_what_a_queue_may_hold_is_not_counted(auditor: Auditor, notes: Notes) -> None:
    notes.note(store.ACKNOWLEDGED, *tasks(2), *tasks(3, EARLY + 2))
    notes.sorted[store.EMPTY]["default"] = 60.0 * (EARLY + 1) + MARGIN  # given out: what was due in the first minute
    assert sure(auditor) == (2, 0)


def test_what_a_worker_holds_is_not_counted(auditor: Auditor, notes: Notes) -> None:
    running, lost = tasks(2)
    notes.note(store.ACKNOWLEDGED, running, lost)
    notes.sets[store.key(store.HELD, int(time() // 60) - 1)].add(running.member)
    assert sure(auditor) == (1, 0)


def test_a_final_result_is_an_end_and_another_one_is_not(auditor: Auditor, notes: Notes) -> None:
    done, failed, retried = tasks(3)
    notes.note(store.ACKNOWLEDGED, done, failed, retried)
    auditor.app.backend.states = {done.task_id: "SUCCESS", failed.task_id: "FAILURE", retried.task_id: "RETRY"}
    assert sure(auditor) == (1, 0)


def test_what_may_be_a_dead_letter_is_undecided(auditor: Auditor, notes: Notes) -> None:
    notes.note(store.ACKNOWLEDGED, *tasks(5))
    notes.note(store.RETURNED, *tasks(2))
    assert sure(auditor) == (3, 2)


@pytest.mark.parametrize(
    ("empty", "passed", "slowest"),
    [
        ({"default": 5000.0, "other": 4000.0}, {}, ("other", 4000.0)),
        ({"default": 5000.0, "other": 4000.0}, {"other 0": 7000.0, "other 9": 6000.0}, ("default", 5000.0)),
        ({"default": 5000.0, "other": 4000.0}, {"other 0": 7000.0, "other 9": 10.0}, ("other", 4000.0)),
        ({"default": 5000.0}, {"other 0": 3000.0, "unknown 0": 1.0}, ("other", 3000.0)),
        ({"default": 5000.0, "unknown": 1.0}, {}, ("other", 0.0)),
    ],
    ids=["empty", "gave out later ones", "a priority was not given out", "never empty", "nobody consumes it"],
)
def test_how_far_the_queues_have_come(
    notes: Notes, empty: dict[str, float], passed: dict[str, float], slowest: tuple[str, float]
) -> None:
    notes.sorted[store.EMPTY], notes.sorted[store.PASSED] = empty, passed
    app: Any = SimpleNamespace(amqp=SimpleNamespace(queues={"default": None, "other": None}))
    assert Auditor(app, notes)._slowest() == (slowest[0], slowest[1] - MARGIN)


def test_the_queue_that_keeps_tasks_from_being_counted_is_named_once(
    auditor: Auditor, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    notes.note(store.ACKNOWLEDGED, *tasks(1))
    notes.sorted[store.EMPTY].clear()
    assert sure(auditor) == (0, 0)
    assert [("default empty" in record.getMessage(), record.levelname) for record in caplog.records] == [
        (True, "WARNING")
    ]
    notes.sorted[store.EMPTY]["default"] = NOW + 3600
    auditor.look(NOW + 120)
    notes.sorted[store.EMPTY].clear()
    notes.note(store.ACKNOWLEDGED, *tasks(1, EARLY + 1))
    auditor.look(NOW + 180)
    assert len(caplog.records) == 2, "once each time"

"""The arithmetic of the recovery times: what notes say, the spread, the table, the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from bench.recovery import notes
from bench.recovery.caller import CALLERS
from bench.recovery.faults import FAULTS, rotated
from bench.recovery.notes import (
    ACKNOWLEDGED,
    ANSWERED,
    DONE,
    MEASURES,
    REFUSED,
    SENT,
    STARTED,
    UNANSWERED,
    Counts,
    Note,
    counts,
    running,
    times,
    watched,
)
from bench.recovery.report import figures, joined, spread, svg, table
from bench.recovery.systems import COMMANDS, SYSTEMS

if TYPE_CHECKING:
    from pathlib import Path

KILLED = 10.0


def ran(number: int, at: float, *, worker: str = "one", pid: int = 1) -> list[Note]:
    return [Note(at, STARTED, number, worker, pid), Note(at + 0.4, DONE, number, worker, pid)]


def published(number: int, at: float) -> list[Note]:
    return [Note(at, SENT, number), Note(at + 0.1, ACKNOWLEDGED, number)]


def row(fault: str, system: str, *seconds: float | None, lost: int = 0) -> dict[str, Any]:
    turns: list[dict[str, float | None]] = [dict.fromkeys(MEASURES, one) for one in seconds]
    return figures(fault, system, turns, [watched(30.0, 40.0)] * len(turns), [Counts(100, lost, 1)] * len(turns))


def test_a_task_that_its_dead_worker_had_runs_again() -> None:
    told = [*published(7, 9.5), Note(9.9, STARTED, 7, "one", 1), *ran(7, 11.5, worker="two", pid=2)]
    assert times(told, KILLED, victim=7)["rerun"] == pytest.approx(1.5)
    assert counts(told) == Counts(acknowledged=1, lost=0, twice=1)


def test_a_task_that_was_acknowledged_before_its_run_is_lost_with_its_worker() -> None:
    told = [*published(7, 9.5), Note(9.9, STARTED, 7, "one", 1), *published(8, 9.7), *ran(8, 11.0)]
    assert times(told, KILLED, victim=7)["rerun"] is None
    assert counts(told) == Counts(acknowledged=2, lost=1, twice=0)


def test_only_what_was_published_after_the_fault_shows_recovery() -> None:
    before = [Note(9.9, SENT, 1), Note(12.0, ACKNOWLEDGED, 1), *ran(1, 12.1)]
    refused = [Note(10.5, SENT, 2), Note(11.0, REFUSED, 2)]
    after = [Note(13.0, SENT, 3), Note(13.2, ACKNOWLEDGED, 3), *ran(3, 14.0)]
    told = sorted([*before, *refused, *after], key=lambda one: one.at)
    found = times(told, KILLED)
    assert found["accepted"] == pytest.approx(3.2)
    assert found["worked"] == pytest.approx(4.0)
    assert found["answered"] is None


def test_a_publish_that_failed_is_not_lost_and_may_run() -> None:
    assert counts([Note(10.5, SENT, 2), Note(11.0, REFUSED, 2)]) == Counts(0, 0, 0)


def test_a_result_counts_when_its_caller_has_read_it() -> None:
    told = [*published(1, 10.1), Note(12.2, UNANSWERED, 1), *published(2, 12.3), Note(13.0, ANSWERED, 2)]
    assert times(told, KILLED)["answered"] == pytest.approx(3.0)


def test_a_victim_is_a_task_that_runs_and_has_only_begun() -> None:
    told = [*ran(1, 9.0), Note(9.9, STARTED, 2, "two", 5)]
    assert running(told, 9.8) == Note(9.9, STARTED, 2, "two", 5)
    assert running(told, 9.95) is None
    assert running(ran(1, 9.0), 8.0) is None


def test_notes_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setenv("BENCH_NOTES", str(path))
    notes._file.cache_clear()
    notes.note(SENT, 3)
    monkeypatch.setenv("BENCH_WORKER", "two")
    notes.note(STARTED, 3)
    notes._file.cache_clear()
    with path.open("a") as file:
        file.write("12.5 don")  # of somebody who writes just now
    assert [(one.what, one.number, one.worker) for one in notes.read(path)] == [(SENT, 3, ""), (STARTED, 3, "two")]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ((0.123, 1.26, 33.3), "1.3 (0.12 to 33)"),
        ((None, None), "not within 40 s: 2 of 2"),
        ((2.0, None, 4.0), "3.0 (2.0 to 4.0); not within 40 s: 1 of 3"),
    ],
)
def test_a_spread_says_median_range_and_what_never_came_back(seconds: tuple[float | None, ...], words: str) -> None:
    assert str(spread(row("child", "holdfast", *seconds), "rerun")) == words


def test_the_table_names_what_was_lost_and_says_what_an_unconfirmed_publish_means() -> None:
    rows = [row("broker", key, *[1.0] * 5, lost=3) for key in ("holdfast", "celery")]
    ours, _, theirs, _ = table(rows).splitlines()[2:]
    accepted = "the next publish is accepted | 1.0 (1.0 to 1.0) | 15 of 500 | 5 |"
    assert ours == f"| the broker that leads the queue | Holdfast | {accepted}"
    assert "Celery, defaults | the next publish returns, unconfirmed |" in theirs


def test_a_later_run_replaces_what_it_measured_and_keeps_the_rest() -> None:
    rows = joined([row("child", "taskiq", 1.0), row("child", "holdfast", 1.0)], [row("child", "holdfast", 2.0)])
    assert [(one["system"], one["seconds"]["rerun"]) for one in rows] == [("holdfast", [2.0]), ("taskiq", [1.0])]


def test_the_picture_is_well_formed_and_says_what_did_not_come_back() -> None:
    text = svg([row("child", "celery", None, 0.001)])
    ET.fromstring(text)  # noqa: S314 - made a line above
    assert "Celery, defaults" in text
    assert "not within 40 s: 1 of 2" in text


def test_the_broker_that_dies_is_tried_first_or_last() -> None:
    urls = ["amqp://u:p@10.0.0.1/v", "amqp://u:p@10.0.0.2/v", "amqp://u:p@10.0.0.3/v"]
    assert rotated(urls, "10.0.0.2", apart=False) == [urls[1], urls[0], urls[2]]
    assert rotated(urls, "10.0.0.2", apart=True) == [urls[0], urls[2], urls[1]]


def test_every_system_has_a_caller_and_workers_and_every_fault_measures_something() -> None:
    assert {system.kind for system in SYSTEMS.values()} == CALLERS.keys() == COMMANDS.keys()
    assert {measure for fault in FAULTS.values() for measure in fault.measures} == MEASURES.keys()

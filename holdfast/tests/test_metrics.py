"""What a worker serves to Prometheus: a real worker with real children, on a broker that is a folder."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import ImproperlyConfigured
from folder_worker import Worker, free_port, wait_for

from holdfast import environment
from holdfast.audit.latest import Latest, Verdict
from holdfast.metrics import numbers, processes, server
from holdfast.metrics.files import CountFiles
from holdfast.metrics.numbers import OUTCOMES
from holdfast.metrics.processes import PulseCollector
from holdfast.publisher import NotAcknowledged
from holdfast.pulse import Pulse, Queue

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A worker that does not run yet."""
    return Worker(tmp_path, free_port())


def test_every_end_of_a_task_is_counted_once_and_a_killed_child_breaks_nothing(worker: Worker) -> None:
    with worker.running():
        worker.call(
            "[add.delay(n, 1) for n in range(5)]\n"
            "for how in ('failed', 'dead_lettered', 'ignored'): end.delay(how)\n"
            "again.delay(); killed_once.delay()"
        )
        expected = {
            ("add", "succeeded"): 5,
            ("end", "failed"): 1,
            ("end", "dead_lettered"): 1,
            ("end", "ignored"): 1,
            ("again", "retried"): 1,
            ("again", "succeeded"): 1,
            ("killed_once", "put_back"): 1,
            ("killed_once", "succeeded"): 1,
        }
        wait_for(lambda: worker.tasks() == expected, worker)
        wait_for(lambda: worker.value("holdfast_task_queue_wait_seconds_count") >= 11, worker)
        wait_for(lambda: worker.value("holdfast_task_runtime_seconds_count") >= 11, worker)
        assert worker.value("holdfast_worker_consuming") == 1
        files = sorted(path.name.split("_")[1] for path in (worker.folder / "run" / "metrics").glob("*/counter_*"))
        assert files[-2:] == ["child0.db", "child1.db"], "a replaced child uses the file of the one before"
        assert len(files) == 3


def test_a_port_that_is_taken_is_a_line_in_the_log_until_it_is_free(worker: Worker) -> None:
    taken = socket.create_server(("127.0.0.1", worker.port))
    with worker.running():
        wait_for(lambda: "trying again until it is free" in worker.log, worker)
        worker.call("add.delay(1, 1)")
        wait_for(lambda: "succeeded" in worker.log, worker)
        taken.close()
        wait_for(lambda: "metrics on " in worker.log, worker)
        wait_for(lambda: worker.tasks() == {("add", "succeeded"): 1}, worker)  # the child logs before the parent counts


def test_a_folder_that_cannot_be_written_costs_the_numbers_and_not_the_worker(worker: Worker) -> None:
    (worker.folder / "run").mkdir()
    (worker.folder / "run" / "metrics").write_text("a file where the folder should be", encoding="utf-8")
    with worker.running():
        worker.call("add.delay(1, 1)")
        wait_for(lambda: "succeeded" in worker.log, worker)
        assert "only the state of this process is served" in worker.log
        assert worker.value("holdfast_worker_consuming") == 1
        assert worker.tasks() == {}


def test_a_worker_that_was_killed_leaves_nothing_to_the_next_one(worker: Worker) -> None:
    for _ in range(2):
        with worker.running() as process:
            worker.call("add.delay(1, 1)")
            wait_for(lambda: worker.tasks() == {("add", "succeeded"): 1}, worker)
            assert [path.name for path in (worker.folder / "run" / "metrics").iterdir()] == [str(process.pid)]


def test_a_full_disk_is_found_before_a_file_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    files = CountFiles(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        files._allocate()
    assert list(tmp_path.glob("*.db")) == []


def test_a_worker_consumes_from_a_queue_as_long_as_the_broker_says_so() -> None:
    now = time.time()
    pulse = Pulse("w", "worker", state="consuming", queues={"q": Queue(now, consumers=1), "old": Queue(now - 61, 5, 1)})
    assert pulse.consumes("q", now)
    assert not pulse.consumes("old", now)
    assert not pulse.consumes("other", now)
    assert not pulse.consumes("q", now + 31), "the main loop stands still"
    pulse.queues["q"] = Queue(now, consumers=0)
    assert not pulse.consumes("q", now)


def test_a_paused_queue_says_since_when() -> None:
    pulse = Pulse("w", "worker", state="consuming", queues={"q": Queue(time.time(), consumers=1)})
    names = {family.name for family in PulseCollector(pulse).collect() if family.samples}
    assert "holdfast_worker_paused_timestamp_seconds" not in names
    pulse.paused["q"] = 17.0
    found = {family.name: family.samples for family in PulseCollector(pulse).collect()}
    (sample,) = found["holdfast_worker_paused_timestamp_seconds"]
    assert (sample.labels, sample.value) == ({"queue": "q"}, 17.0)


def test_beat_says_when_it_ticked_and_whether_it_holds_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Latest, "verdict", None)
    pulse = Pulse("beat", "beat", state="standby")
    shown = {family.name: family.samples[0].value for family in PulseCollector(pulse).collect()}
    assert shown == {
        "holdfast_beat_last_tick_timestamp_seconds": pulse.time,
        "holdfast_beat_active": 0,
        "holdfast_beat_entries_refused": 0,
    }
    pulse.enter("active")
    assert [family.samples[0].value for family in PulseCollector(pulse).collect()][1] == 1


def test_beat_says_what_the_last_look_for_lost_tasks_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Latest, "verdict", Verdict(at=17.0, unaccounted=3, undecided=1, oldest=660.0))
    shown = {family.name: family.samples[0].value for family in PulseCollector(Pulse("beat", "beat")).collect()}
    assert {name: value for name, value in shown.items() if "_beat_" not in name} == {
        "holdfast_tasks_unaccounted": 3,
        "holdfast_tasks_undecided": 1,
        "holdfast_audit_oldest_open_age_seconds": 660.0,
        "holdfast_audit_last_look_timestamp_seconds": 17.0,
    }


def test_the_last_heartbeat_of_a_process_is_served_on_its_only_port(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[PulseCollector] = []
    monkeypatch.setattr(processes, "_served", [])
    monkeypatch.setattr(numbers, "PORT", 9540)
    monkeypatch.setattr(server, "serve_when_free", lambda _address, _port, heartbeat: served.append(heartbeat))
    for state in ("standby", "active"):
        processes.show(Pulse("beat", "beat", state=state))
    assert [heartbeat.pulse.state for heartbeat in served] == ["active"]


def test_every_error_of_the_publisher_is_an_outcome() -> None:
    # a coroutine that was cancelled does not end its publish, which has an outcome of its own
    kinds = {
        error.outcome for error in NotAcknowledged.__subclasses__() if error.__module__ == NotAcknowledged.__module__
    }
    assert kinds | {"acknowledged", "outbox"} == set(OUTCOMES)


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1"])
def test_a_wrong_port_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HOLDFAST_METRICS_PORT", text)
    with pytest.raises(ImproperlyConfigured, match="allowed is a TCP port from 1 to 65535"):
        environment.port("HOLDFAST_METRICS_PORT")


def test_a_soft_time_limit_that_strikes_while_counting_reaches_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[str] = []
    with monkeypatch.context() as struck:
        struck.setattr(numbers.STORED, "inc", _strike)
        with pytest.raises(SoftTimeLimitExceeded):
            numbers.result_stored()
    monkeypatch.setattr(numbers.STORED, "inc", lambda _count: stored.append("counted"))
    numbers.result_stored()
    assert stored == ["counted"]


def test_what_a_handler_counts_in_the_middle_of_a_count_is_added_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def inc(_count: int) -> None:
        steps.append("begins")
        if len(steps) == 1:
            numbers.result_stored()
        steps.append("ends")

    monkeypatch.setattr(numbers.STORED, "inc", inc)
    numbers.result_stored()
    assert steps == ["begins", "ends"] * 2


def _strike(*_: object) -> None:
    raise SoftTimeLimitExceeded

"""The metrics of workers against the real broker and result store, and those of the running stack."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .stack import prometheus, wait_until

if TYPE_CHECKING:
    from .rig import Rig
    from .stack import Stack

pytestmark = pytest.mark.stack


def scrape(address: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the values of a page by name and label values."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        page = answer.read().decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "le")
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_tasks_move_the_numbers_and_a_killed_child_keeps_the_page(rig: Rig) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    here = f"127.0.0.1:{port}"
    with rig.worker(2, HOLDFAST_METRICS_PORT=str(port)):
        wait_until(lambda: scrape(here)["holdfast_worker_consuming"] == {(rig.queue,): 1}, "the worker consumes")
        rig.call("[echo.delay(n) for n in range(4)]; again.delay(10)")
        tasks = {
            (rig.queue, "succeeded", "scratch.echo"): 4,
            (rig.queue, "retried", "scratch.again"): 1,
            (rig.queue, "succeeded", "scratch.again"): 1,
        }
        runs = {("scratch.echo",): 4, ("scratch.again",): 2}

        def counted() -> dict[str, dict[tuple[str, ...], float]] | None:
            page = scrape(here)  # the end and the time of a run are counted one after the other
            seen = page["holdfast_tasks_total"], page["holdfast_task_runtime_seconds_count"]
            return page if seen == (tasks, runs) else None

        page = wait_until(counted, "every end is counted")
        assert page["holdfast_task_queue_wait_seconds_count"] == runs
        assert page["holdfast_task_queue_wait_seconds_sum"]["scratch.again",] < 10, "without the countdown"
        assert page["holdfast_results_stored_total"][()] == 5, "the children's results"
        assert page["holdfast_publishes_total"]["acknowledged",] == 1, "the child's retry"
        assert page["holdfast_publish_seconds_count"][()] == 1

        rig.call("echo.delay('long', 600)")
        (_, _, _, child) = wait_until(lambda: rig.lines("echo long"), "the task runs")[0]
        wait_until(lambda: scrape(here)["holdfast_worker_active"][()] == 1, "the main process knows it")
        os.kill(int(child), signal.SIGKILL)
        returned = (rig.queue, "put_back", "scratch.echo")
        wait_until(lambda: scrape(here)["holdfast_tasks_total"].get(returned), "its message is put back")
        page = scrape(here)
        assert page["holdfast_results_stored_total"][()] == 5, "a dead child takes no number with it"


def test_prometheus_hears_every_worker_program_both_beats_and_the_relay(stack: Stack) -> None:
    def up() -> bool:
        answer = prometheus("query?query=up")
        found = {
            (series["metric"]["job"], series["metric"]["instance"], series["metric"].get("program")): series["value"][1]
            for series in answer["data"]["result"]
        }
        return all(found.get(one) == "1" for one in expected)

    expected: set[tuple[str, str, str | None]]
    expected = {("workers", host, program) for host in ("worker1", "worker2") for program in ("default", "critical")}
    expected |= {("beat", "beat1", None), ("beat", "beat2", None), ("relay", "relay", None)}
    wait_until(up, f"{sorted(expected, key=str)} are up")
    active = [scrape(f"{stack.address(beat)}:9538")["holdfast_beat_active"][()] for beat in ("beat1", "beat2")]
    assert sum(active) <= 1, "one beat sends the ticks"

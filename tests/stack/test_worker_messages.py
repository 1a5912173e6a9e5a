"""What a worker does with messages that it cannot run, retries, and tasks that kill it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .stack import wait_until

if TYPE_CHECKING:
    from .rig import Rig

pytestmark = pytest.mark.stack

ARGUMENTS = "[[1], {}, {}]"
UNRUNNABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "body is no JSON": ("{not json", {"id": "1", "task": "scratch.echo"}),
    "body is no triple": ('"hello"', {"id": "2", "task": "scratch.echo"}),
    "arguments are no list": ("[5, {}, {}]", {"id": "3", "task": "scratch.echo"}),
    "no task id": (ARGUMENTS, {"task": "scratch.echo"}),
    "task name is no text": (ARGUMENTS, {"id": "4", "task": [1]}),
    "task is unknown": (ARGUMENTS, {"id": "5", "task": "scratch.nothing"}),
    "eta is no date": (ARGUMENTS, {"id": "6", "task": "scratch.echo", "eta": "tomorrow"}),
    "time limit is no pair": (ARGUMENTS, {"id": "7", "task": "scratch.echo", "timelimit": "x"}),
    "no task at all": ("hello", {}),
}


def test_a_message_that_cannot_run_is_dead_lettered_and_the_worker_goes_on(rig: Rig) -> None:
    with rig.worker() as worker:
        for body, headers in UNRUNNABLE.values():
            rig.publish(body, headers)
        wait_until(lambda: rig.depth(rig.dead) == (len(UNRUNNABLE), 0), "all are in the dead-letter queue")
        rig.publish('[["after"], {}, {}]', {"id": "after", "task": "scratch.echo"})
        wait_until(lambda: rig.runs("end") == {"after": 1}, "a good task runs")
        assert worker.alive
    assert rig.runs("echo") == {"after": 1}


def test_a_task_in_pickle_is_dead_lettered(rig: Rig) -> None:
    with rig.worker() as worker:
        rig.call('echo.apply_async((1,), serializer="pickle")')
        wait_until(lambda: rig.depth(rig.dead) == (1, 0), "it is in the dead-letter queue")
        assert worker.alive
    assert rig.lines("echo") == []


def test_stock_celery_acknowledges_what_it_cannot_read(rig: Rig) -> None:
    with rig.worker(STOCK="1") as worker:
        rig.publish(*UNRUNNABLE["body is no JSON"])
        worker.wait_for("Can't decode message body")
        rig.drained()
    assert rig.depth(rig.dead) == (0, 0)  # it is nowhere


def test_stock_celery_ends_at_a_message_without_task_id(rig: Rig) -> None:
    with rig.worker(STOCK="1") as worker:
        rig.call("echo.delay('first')")
        # in the tenth of a second before its loop begins, the error would be passed over (_quick_drain)
        wait_until(lambda: rig.runs("end") == {"first": 1}, "its loop runs tasks")
        rig.publish(*UNRUNNABLE["no task id"])
        wait_until(lambda: not worker.alive, "the worker has ended")
        assert "KeyError: 'id'" in worker.text


def test_a_poison_task_is_dead_lettered_and_no_other_task_suffers(rig: Rig) -> None:
    rig.declare(delivery_limit=3)
    innocents = {str(number): 1 for number in range(20)}
    with rig.worker(concurrency=2) as worker:
        rig.call(
            "[echo.delay(n) for n in range(10)]; print(poison.apply_async(task_id='poison'));"
            "[echo.delay(n) for n in range(10, 20)]"
        )
        wait_until(lambda: rig.runs("end") == innocents, "each innocent task has run once")
        wait_until(lambda: rig.depth(rig.dead) == (1, 0), "the poison is in the dead-letter queue")
        assert worker.alive
    assert rig.runs("poison") == {"-": 4}  # the first delivery and three more
    (dead,) = rig.get(rig.dead)
    assert dead["properties"]["headers"]["id"] == "poison"
    assert dead["properties"]["headers"]["x-first-death-reason"] == "delivery_limit"


@pytest.mark.parametrize("countdown", [0, 0.5, 2])
def test_a_retry_keeps_its_queue_whatever_its_delay(rig: Rig, countdown: float) -> None:
    with rig.worker():
        rig.call(f"again.apply_async(args=({countdown}, 3))")
        wait_until(lambda: len(rig.lines("again")) == 4, "three retries")
        rig.drained()
    assert rig.runs("again") == {f"{number}/{rig.queue}": 1 for number in range(4)}
    assert rig.depth(rig.dead) == (0, 0)


def test_stock_celery_drops_a_retry_after_less_than_a_second(rig: Rig) -> None:
    with rig.worker(STOCK="1"):
        rig.call("again.apply_async(args=(0.5, 3))", STOCK="1")
        wait_until(lambda: rig.depth(rig.dead) == (1, 0), "the task left the queue without its retry")
    assert len(rig.lines("again")) == 1

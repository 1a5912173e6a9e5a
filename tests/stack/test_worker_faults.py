"""A worker goes on through the faults of its servers, loses nothing, and is never connected and idle."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from .publishing import NODES, cut_off, leader, urls
from .stack import wait_until

if TYPE_CHECKING:
    from .rig import Rig

pytestmark = [pytest.mark.stack, pytest.mark.long]


def test_during_an_alarm_a_worker_with_events_drains_its_queue_and_what_follows_waits(rig: Rig) -> None:
    rig.call(
        "from celery import chain, chord\n[echo.delay(n) for n in range(100)]; again.apply_async(args=(1, 1))\n"
        "chain(echo.s([1, 2, 3]), total.s())(); chord([echo.s(1), echo.s(2)], total.s())()"
    )
    with rig.disk_alarm(), rig.worker(concurrency=2) as worker:
        wait_until(lambda: len(rig.runs("end")) > 100, "the queue is drained while publishers are blocked", 60)
        for reason in ("its retry was", "what follows it was", "the chord's body was"):
            worker.wait_for(f"{reason} not accepted", 60)
        assert [beat.problems() for beat in rig.heartbeats()] == [[]]
        assert rig.depth(rig.dead) == (0, 0)
        worker.wait_for("Events and replies pause")
    with rig.worker():
        rig.drained()
    assert set(rig.runs("total")) == {"3", "2"}
    assert rig.runs("again")[f"1/{rig.queue}"] >= 1  # more when the broker read a blocked publish after all


def test_stock_celery_does_not_consume_during_an_alarm(rig: Rig) -> None:
    rig.call("[echo.delay(n) for n in range(20)]")
    with rig.disk_alarm(), rig.worker(STOCK="1", ready=False) as worker:
        worker.wait_for("Connected to amqp")
        with pytest.raises(AssertionError, match="not within 20 s"):
            wait_until(lambda: rig.runs("end"), "a task runs", 20)


def test_a_killed_child_and_a_killed_worker_lose_nothing(rig: Rig) -> None:
    with rig.worker() as first:
        rig.call("echo.delay('child', 5)")
        wait_until(lambda: rig.runs("echo") == {"child": 1}, "it runs")
        os.kill(int(rig.lines("echo")[0][3]), signal.SIGKILL)
        wait_until(lambda: rig.runs("end") == {"child": 1}, "it runs again")
        rig.drained()
        rig.call("echo.delay('parent', 5)")
        wait_until(lambda: rig.runs("echo")["parent"] == 1, "it runs")
        first.end()
    with rig.worker():
        wait_until(lambda: rig.runs("end") == {"child": 1, "parent": 1}, "another worker runs it again")
        rig.drained()
    assert rig.depth(rig.dead) == (0, 0)


def test_a_worker_survives_the_restart_of_all_brokers(rig: Rig) -> None:
    brokers = ("rabbit1", "rabbit2", "rabbit3")
    with rig.worker() as worker:
        rig.call("echo.delay('before', 600)")
        wait_until(lambda: rig.runs("echo") == {"before": 1}, "a task runs")
        rig.call("[echo.delay(n) for n in range(50)]")
        for broker in brokers:
            rig.stack.kill(broker)
        rig.stack.wait_healthy(*brokers, deadline=120)
        wait_until(lambda: rig.runs("echo")["before"] == 2, "the interrupted task is handed out again", 90)
        assert worker.alive
    with rig.worker(concurrency=2):
        wait_until(lambda: len(rig.runs("end")) == 50, "what was queued before is run", 60)


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
def test_a_worker_leaves_a_broker_that_is_cut_off_from_the_others(rig: Rig, *, leads: bool) -> None:
    """A leader without followers does not know that it leads no more."""
    nodes = sorted(NODES, key=lambda name: (name == leader(rig)) != leads)
    with rig.worker(HOLDFAST_BROKER_URL=urls(rig, *nodes), SCRATCH_FAILOVER="round-robin") as worker:
        assert worker.consumes_from() == rig.stack.address(nodes[0])
        with cut_off(rig, nodes[0]):
            worker.wait_for("Connected to amqp", 60, times=2)
            rig.call("[echo.delay(n) for n in range(5)]")
            # one is handed to the consumer on the other side, until that node is taken for gone (net_ticktime: 60 s)
            wait_until(lambda: len(rig.runs("end")) >= 4, "it consumes through another broker", 40)
            assert worker.alive
        wait_until(lambda: len(rig.runs("end")) == 5, "the last one is handed out again", 90)


def test_a_consumer_timeout_does_not_stop_the_worker(rig: Rig) -> None:
    rig.declare(consumer_timeout=10_000, delivery_limit=1)
    with rig.worker(concurrency=2) as worker:
        rig.call("echo.apply_async(args=('long', 100), task_id='long')")
        wait_until(lambda: rig.runs("echo")["long"] == 1, "the long task runs")
        wait_until(lambda: rig.runs("echo")["long"] == 2, "the broker takes it away and hands it out again", 150)
        rig.call("echo.delay('short')")
        wait_until(lambda: rig.runs("end") == {"short": 1}, "the worker consumes again")
        assert worker.alive


def test_a_worker_that_reconnects_before_the_broker_noticed_does_not_meet_its_own_queue(rig: Rig) -> None:
    with rig.worker() as worker, rig.cut(worker):
        rig.call("echo.delay('after')")
        wait_until(lambda: rig.runs("end") == {"after": 1}, "the worker consumes on a new connection", 60)
        assert worker.alive
        assert "RESOURCE_LOCKED" not in worker.text


def test_stock_celery_meets_its_own_control_queue_after_a_cut(rig: Rig) -> None:
    with rig.worker(STOCK="1") as worker, rig.cut(worker):
        worker.wait_for("RESOURCE_LOCKED", 60)

"""The stack broken on purpose while deliveries run: every accepted one arrives, counted by the receiver's own log."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..hook import Hook
    from ..stack import Stack

pytestmark = pytest.mark.stack

WORKERS = ("worker1", "worker2")
BROKERS = ("rabbit1", "rabbit2", "rabbit3")


@pytest.fixture(autouse=True)
def healed(stack: Stack) -> Iterator[None]:
    """Leave the stack as it was found: every service up and green."""
    yield
    stack.compose("start")
    stack.wait_healthy(
        *BROKERS, *WORKERS, "redis1", "redis2", "redis3", "sentinel1", "sentinel2", "sentinel3", "beat1", "beat2"
    )


SLOW = 24  # deliveries that take seconds each: enough to be at work until somebody has looked


def in_flight(hook: Hook, stack: Stack, delay: float = 5) -> None:
    """Send slow deliveries and wait until both workers are busy with them."""
    hook.answers(delay=delay)
    hook.send_many(SLOW)
    wait_until(lambda: stack.depth("default")[1] == 4, "four tasks at work")


def test_killed_worker_children(stack: Stack, hook: Hook) -> None:
    in_flight(hook, stack)

    children = [pid for worker in WORKERS for pid in stack.pool_children(worker)]
    assert children
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    hook.answers()

    hook.wait_delivered(SLOW)


def test_killed_worker_container(stack: Stack, hook: Hook) -> None:
    in_flight(hook, stack)
    started = stack.state("worker1")["StartedAt"]

    stack.kill("worker1")
    hook.answers()

    hook.wait_delivered(SLOW)
    wait_until(lambda: stack.state("worker1")["StartedAt"] != started, "worker1 is started again")


def test_killed_queue_leader_while_publishing(stack: Stack, hook: Hook) -> None:
    leader = stack.queue("default", "leader")["leader"].removeprefix("rabbit@")
    senders = [threading.Thread(target=hook.send_many, args=(40,)) for _ in range(3)]
    for sender in senders:
        sender.start()
    hook.wait_delivered(1)

    stack.kill(leader)
    for sender in senders:
        sender.join(timeout=180)

    counts = hook.wait_delivered(120, deadline=180)
    assert counts["unique"] == 120
    other = next(node for node in BROKERS if node != leader)
    wait_until(lambda: stack.queue("default", "leader", node=other)["leader"], "the queue has a leader")


def test_results_survive_a_sentinel_failover(stack: Stack, hook: Hook) -> None:
    before = [hook.send("--wait", "60") for _ in range(3)]
    primary = stack.redis_primary()

    stack.compose("kill", primary)
    during = hook.send()
    wait_until(lambda: stack.redis_primary() != primary, "Sentinel named another primary")
    hook.wait_delivered(4)

    for task_id in [*before, during]:
        assert f"'delivery': '{task_id}'" in stack.result(task_id)


def test_the_standby_beat_takes_over(stack: Stack) -> None:
    def ticks(service: str) -> int:
        return stack.run("sh", "-c", 'docker logs --since 60s "$0" 2>&1', stack.container(service)).count(
            "beat: sending sweep"
        )

    def only_one() -> str | None:
        ticking = [beat for beat in ("beat1", "beat2") if ticks(beat)]  # two after a failover in this minute
        return ticking[0] if len(ticking) == 1 else None

    holder = wait_until(only_one, "one beat ticks, and not the other one", 180)
    standby = {"beat1": "beat2", "beat2": "beat1"}[holder]

    stack.compose("kill", holder)

    wait_until(lambda: ticks(standby), "the standby ticks")


@pytest.mark.parametrize("delay", [6, 25], ids=["shorter-than-the-soft-shutdown", "longer"])
def test_stop_through_supervisor_while_a_task_runs(stack: Stack, hook: Hook, delay: int) -> None:
    in_flight(hook, stack, delay)
    hook.answers()

    stack.inside("worker1", "supervisorctl", "stop", "default")
    try:
        counts = hook.wait_delivered(SLOW)
        assert counts["unique"] == SLOW
    finally:
        stack.inside("worker1", "supervisorctl", "start", "default")

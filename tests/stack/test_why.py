"""scripts/why names what keeps the running stack from delivering, each time with the next step."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from .stack import ROOT, Stack, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rig import Rig

pytestmark = pytest.mark.stack


def why() -> tuple[int, str]:
    """Ask it; return the exit code and what was found."""
    done = subprocess.run([ROOT / "scripts/why"], capture_output=True, text=True, timeout=200, check=False)
    assert done.stderr.count("next:") == done.stderr.count("found:"), done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def memory_alarm(stack: Stack) -> Iterator[None]:
    """A node that may use no memory at all."""
    limit = stack.rabbitmqctl("status", node="rabbit3")["vm_memory_high_watermark_setting"]["absolute"]
    stack.inside("rabbit3", "rabbitmqctl", "-q", "set_vm_memory_high_watermark", "absolute", "1MB")
    yield
    stack.inside("rabbit3", "rabbitmqctl", "-q", "set_vm_memory_high_watermark", "absolute", str(limit))


def test_a_stack_that_delivers_has_nothing_to_say() -> None:
    wait_until(lambda: why() == (0, ""), "nothing is found on a running stack", 120)


def test_a_disk_alarm_of_one_broker_is_named(rig: Rig) -> None:
    with rig.disk_alarm("rabbit2"):
        code, said = wait_until(lambda: found if (found := why())[0] else None, "the alarm is found", 60)
    assert code == 1
    assert "a disk alarm on rabbit2" in said
    assert "rabbit1" not in said
    assert "BrokerDiskAlarm.md" in said


@pytest.mark.usefixtures("memory_alarm")
def test_a_memory_alarm_of_one_broker_is_named() -> None:
    _, said = wait_until(lambda: found if (found := why())[0] else None, "the alarm is found", 60)
    assert "a memory alarm on rabbit3" in said
    assert "disk alarm" not in said


def test_workers_that_are_away_are_named_with_their_queues(stack: Stack) -> None:
    workers = ("worker1", "worker2")
    try:
        stack.run("docker", "stop", *map(stack.container, workers), seconds=120)
        _, said = why()
        assert "not running: worker1 worker2" in said
        assert "nobody consumes from the queue default" in said
        assert "nobody consumes from the queue critical" in said
    finally:
        stack.run("docker", "start", *map(stack.container, workers))
        stack.wait_healthy(*workers)


def test_a_relay_without_its_database_is_named(stack: Stack) -> None:
    try:
        stack.run("docker", "stop", stack.container("postgres"))
        said = wait_until(lambda: text if "the relay has trouble" in (text := why()[1]) else "", "it is named", 90)
        assert "not running: postgres" in said
    finally:
        stack.run("docker", "start", stack.container("postgres"))
        stack.wait_healthy("postgres", "relay")

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


def wait_said(*words: str) -> str:
    """Wait until all of the words are said, whatever the test before has left; return all that is said then."""

    def said() -> str:
        code, text = why()
        if code != 1 or not all(word in text for word in words):
            raise ValueError(code, text)
        return text

    return wait_until(said, f"{words} are said", 240)


@pytest.fixture
def memory_alarm(stack: Stack) -> Iterator[None]:
    """A node that may use no memory at all."""
    limit = stack.rabbitmqctl("status", node="rabbit3")["vm_memory_high_watermark_setting"]["absolute"]

    def allow(size: str) -> bool:
        stack.inside("rabbit3", "rabbitmqctl", "-q", "set_vm_memory_high_watermark", "absolute", size)
        return True

    try:
        allow("1MB")
        yield
    finally:
        wait_until(lambda: allow(str(limit)), "it may use as much as before")


def test_a_stack_that_delivers_has_nothing_to_say() -> None:
    wait_until(lambda: why() == (0, ""), "nothing is found on a running stack", 240)


def test_a_disk_alarm_of_one_broker_is_named(rig: Rig) -> None:
    with rig.disk_alarm("rabbit2"):
        said = wait_said("a disk alarm on rabbit2", "BrokerDiskAlarm.md")
    assert "alarm on rabbit1" not in said
    assert "alarm on rabbit3" not in said


@pytest.mark.usefixtures("memory_alarm")
def test_a_memory_alarm_of_one_broker_is_named() -> None:
    said = wait_said("a memory alarm on rabbit3")
    assert "a disk alarm on" not in said


def test_workers_that_are_away_are_named_with_their_queues(stack: Stack) -> None:
    workers = ("worker1", "worker2")
    try:
        stack.run("docker", "stop", *map(stack.container, workers), seconds=240)
        queues = ("nobody consumes from the queue default", "nobody consumes from the queue critical")
        wait_said("not running: worker1 worker2", *queues)
    finally:
        stack.run("docker", "start", *map(stack.container, workers))
        stack.wait_healthy(*workers)


def test_a_relay_without_its_database_is_named(stack: Stack) -> None:
    try:
        stack.run("docker", "stop", stack.container("postgres"))
        wait_said("the relay has trouble", "not running: postgres")
    finally:
        stack.run("docker", "start", stack.container("postgres"))
        stack.wait_healthy("postgres", "relay")

"""Beat: one at a time, and a tick that no broker took is sent later instead of never."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from .stack import wait_until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .rig import Process, Rig

pytestmark = pytest.mark.stack


def beat(rig: Rig, name: str, **extra: str) -> AbstractContextManager[Process]:
    """Run a beat that ticks every two seconds."""
    return rig.process("beat", "--loglevel", "INFO", SCRATCH_TICK="2", SUPERVISOR_PROCESS_NAME=name, **extra)


def ids(rig: Rig) -> list[str]:
    """Return the task ids of the ticks that were executed."""
    return [line[2] for line in rig.lines("tick")]


def repeated(rig: Rig) -> int:
    """Return how many ticks were executed again, under the id that they had."""
    return len(ids(rig)) - len(set(ids(rig)))


def sent(*beats: Process) -> set[str]:
    """Return the scheduled times that the beats say they have sent."""
    return {
        line.rpartition("scheduled for ")[2] for one in beats for line in one.text.splitlines() if "sending" in line
    }


def test_ticks_during_an_alarm_are_sent_afterwards(rig: Rig) -> None:
    with rig.worker() as worker, beat(rig, "beat") as one:
        wait_until(lambda: len(ids(rig)) >= 2, "it ticks")
        with rig.disk_alarm():
            one.wait_for("is not acknowledged, it stays due")
            before = len(ids(rig))
        wait_until(lambda: len(ids(rig)) >= before + 12, "the missed ticks follow")
        one.end()
        rig.drained()
        assert worker.alive
        times = sorted(sent(one))
    seconds = [int(time[17:19]) + 60 * int(time[14:16]) for time in times]
    assert {(later - earlier) % 3600 for earlier, later in pairwise(seconds)} == {2}
    assert len(set(ids(rig))) >= len(times) - 1  # the kill may fall between the log and the send


def test_the_standby_takes_over_and_no_tick_is_sent_twice(rig: Rig) -> None:
    with rig.worker(), beat(rig, "one") as one:
        one.wait_for("holds the lock")
        with beat(rig, "two") as two:
            wait_until(lambda: len(ids(rig)) >= 3, "it ticks")
            assert "holds the lock" not in two.text
            one.end()
            before = len(ids(rig))
            two.wait_for("holds the lock")
            wait_until(lambda: len(ids(rig)) > before + 3, "it ticks again")
        assert repeated(rig) <= 1  # the kill may fall between the acknowledgement and its record


def test_a_beat_goes_on_after_a_failover_of_redis(rig: Rig) -> None:
    with rig.worker(), beat(rig, "one") as one, beat(rig, "two") as two:
        wait_until(lambda: len(ids(rig)) >= 2, "it ticks")
        primary = rig.stack.redis_primary()
        with rig.paused(primary):
            wait_until(lambda: rig.stack.redis_primary() != primary, "another primary")
            before = len(ids(rig))
            wait_until(lambda: len(ids(rig)) > before + 10, "it ticks again")
        assert one.alive
        assert two.alive
    assert repeated(rig) <= 1  # the last record before the failover may have reached no replica
    rig.stack.wait_healthy("redis1", "redis2", "redis3")

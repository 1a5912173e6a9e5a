"""A worker or beat that was started without its role's login ends at once, with the next step; no task is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..stack import wait_until

if TYPE_CHECKING:
    from ..rig import Process
    from ..servers import OwnRig, Servers

pytestmark = pytest.mark.stack


def refused(process: Process, *words: str) -> None:
    """Wait for the end of a process, and look for what it said."""
    wait_until(lambda: not process.alive, "the process has ended", 120)
    assert process.child.returncode
    for word in words:
        assert word in process.text, process.text[-3000:]


def test_a_worker_that_may_not_write_results(own_rig: OwnRig, servers: Servers) -> None:
    own_rig.call("echo.delay('kept')")
    with own_rig.worker(ready=False, HOLDFAST_RESULT_URL=servers.redis_url("app")) as worker:
        refused(worker, "holdfast refuses to start", "write results", "login-worker.env")
    assert own_rig.depth() == (1, 0)
    with own_rig.worker():
        wait_until(lambda: own_rig.runs("end")["kept"] == 1, "a worker with its login runs it", 60)
    own_rig.forget_refusals()


def test_a_beat_that_may_not_keep_the_schedule(own_rig: OwnRig, servers: Servers) -> None:
    arguments = ("beat", "--pidfile=", "--loglevel", "INFO")
    with own_rig.process(*arguments, HOLDFAST_SCHEDULE_URL=servers.redis_url("app")) as beat:
        refused(beat, "holdfast refuses to start", "keep the schedule", "login-beat.env")
    own_rig.forget_refusals()

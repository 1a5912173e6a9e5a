"""A queue full of expired tasks is dropped in batches: each one stored for good, and nothing else touched."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from ..stack import wait_until

if TYPE_CHECKING:
    from ..servers import OwnRig, Servers

pytestmark = pytest.mark.stack

MANY = """
import datetime
import holdfast
late = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
expired = lambda: (echo.s("late").set(expires=late) for _ in range(200))
healthy = lambda: (echo.s(f"healthy{number}") for number in range(3))
signatures = [*expired(), *healthy(), *expired(), *healthy(), *expired()]
holdfast.publish_many(app, signatures)
"""
LATE = "2020-01-01T00:00:00+00:00"


def states(servers: Servers) -> Counter[str]:
    """Count what the store holds of tasks, without asking the layer."""
    keys = list(servers.redis.scan_iter("*celery-task-meta-*", count=1000))
    found: Any = servers.redis.mget(keys) if keys else []
    return Counter(json.loads(one)["status"] for one in found)


def test_many_are_stored_as_revoked_and_the_others_run_once(own_rig: OwnRig, servers: Servers) -> None:
    own_rig.call(MANY)
    with own_rig.worker() as worker:
        own_rig.drained(180)
        wait_until(lambda: states(servers) == {"REVOKED": 600, "SUCCESS": 6}, "each has its state", 60)
        assert "are dropped at a time" in worker.text
        assert worker.alive
    assert own_rig.runs("echo") == {f"healthy{number}": 2 for number in range(3)}
    assert own_rig.depth(own_rig.dead) == (0, 0)


def test_many_whose_results_are_ignored_leave_nothing(own_rig: OwnRig, servers: Servers) -> None:
    own_rig.call(MANY.replace("expires=late", "expires=late, ignore_result=True"))
    with own_rig.worker():
        own_rig.drained(180)
    assert states(servers) == {"SUCCESS": 6}
    assert own_rig.depth(own_rig.dead) == (0, 0)


def test_a_success_stays_and_a_chord_is_told(own_rig: OwnRig, servers: Servers) -> None:
    with own_rig.worker(concurrency=2):
        own_rig.call("echo.apply_async(('ran',), task_id='ran')")
        wait_until(lambda: states(servers) == {"SUCCESS": 1}, "its result is stored")
        own_rig.publish("[[1], {}, {}]", {"id": "ran", "task": "scratch.echo", "expires": LATE})
        own_rig.call(
            f"""
from celery import chord
from holdfast import results
body = chord([echo.si(1).set(expires={LATE!r}), echo.si(2)])(total.s())
error = results.get(body, timeout=60, propagate=False)
assert type(error).__name__ == "ChordError" and "TaskRevokedError" in str(error), error
revoked, other = body.parent.results
assert results.get(other, timeout=60) == 2  # the body does not wait for it
assert revoked.state == "REVOKED"
"""
        )
        own_rig.drained(90)
    assert states(servers) == {"SUCCESS": 2, "REVOKED": 1, "FAILURE": 1}


def test_they_wait_for_a_store_that_is_away(own_rig: OwnRig, servers: Servers) -> None:
    own_rig.call(MANY)
    with servers.configured(min_replicas_to_write="2"), own_rig.worker() as worker:
        worker.wait_for("cannot be recorded now", 90, times=10)
        assert not states(servers)["REVOKED"]
        assert worker.alive
        with servers.configured(min_replicas_to_write="0"):
            wait_until(lambda: states(servers) == {"REVOKED": 600, "SUCCESS": 6}, "each has its state", 180)
    assert own_rig.depth(own_rig.dead) == (0, 0)

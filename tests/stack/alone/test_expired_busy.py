"""A task that expires behind busy workers is reported within seconds, and what is reported never runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ..stack import wait_until

if TYPE_CHECKING:
    from ..servers import OwnRig, Servers
    from .broker import Broker

pytestmark = pytest.mark.stack

WAYS = """
import datetime, time
import holdfast
from celery import chain, group
# at once: what is published with a pause between may be retried before the only slot is busy
first = [again.s(3).set(task_id="retried", expires=12), hold.s("busy", {release!r})]
assert all(outcome.acknowledged for outcome in holdfast.publish_many(app, first))
soon = lambda: datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
many = [echo.s("many").set(task_id=f"many{{number}}", expires=2) for number in range(20)]
assert all(outcome.acknowledged for outcome in holdfast.publish_many(app, many))
ways = [
    app.AsyncResult("retried"),
    echo.apply_async(("seconds",), expires=2),
    echo.apply_async(("datetime",), expires=soon()),
    echo.apply_async(("text",), expires=soon().isoformat()),
    echo.apply_async(("delayed",), countdown=300, expires=2),
    echo.apply_async(("eta",), countdown=1, expires=3),
    group(echo.s("member").set(expires=2), app=app)().children[0],
    chain(echo.si("first").set(expires=2), echo.si("second"), app=app)().parent,
    app.send_task("scratch.echo", ("name",), expires=2, ignore_result=False),
    *(app.AsyncResult(f"many{{number}}") for number in range(20)),
]
echo.apply_async(("ignored",), expires=2, ignore_result=True)
until = time.monotonic() + 90  # the slot is busy for as long as it takes
for way in ways:
    error = way.get(timeout=until - time.monotonic(), propagate=False)
    assert type(error).__name__ == "TaskRevokedError", (way.id, error)
    assert way.state == "REVOKED", way.id
"""


def test_behind_a_busy_worker_it_is_reported_when_it_is_due(own_rig: OwnRig) -> None:
    release = own_rig.folder / "release"
    with own_rig.worker() as worker:
        own_rig.call(WAYS.format(release=str(release)))
        assert own_rig.runs("echo") == {"busy": 1}
        release.touch()
        own_rig.drained(90)
        assert worker.alive
    assert own_rig.runs("echo") == {"busy": 1}
    assert own_rig.runs("again").total() == 1
    for queue in (own_rig.dead, own_rig.notices):
        assert own_rig.depth(queue) == (0, 0), queue


def test_the_rendered_logins_suffice(own_rig: OwnRig, broker: Broker) -> None:
    """Whoever publishes may send notices, workers included, and a worker may read them; all with the definitions."""
    where: dict[str, Any] = {"HOLDFAST_QUEUES": "default", "SCRATCH_NOTICES": "expired"}
    with own_rig.worker(HOLDFAST_BROKER_URL=broker.url("worker"), **where) as worker:
        code = WAYS.format(release=str(own_rig.folder / "release"))
        own_rig.call(code, HOLDFAST_BROKER_URL=broker.url("app"), **where)
        assert own_rig.runs("echo") == {"busy": 1}
        assert worker.alive
        assert "cannot be read" not in worker.text


def test_a_task_that_runs_when_it_expires_is_not_reported(own_rig: OwnRig, servers: Servers) -> None:
    release = own_rig.folder / "release"
    with own_rig.worker(concurrency=2) as worker:
        own_rig.call(
            f"""
echo.delay("warm").get(timeout=60)
hold.apply_async(("long", {str(release)!r}), task_id="long", expires=10)
"""
        )
        worker.wait_for("0 of 1 tasks have expired before a worker could start them", 60)
        assert servers.redis.get("celery-task-meta-long") is None
        release.touch()
        own_rig.call('assert app.AsyncResult("long").get(timeout=60) == "long"')
    assert own_rig.runs("end") == {"warm": 1, "long": 1}


def test_what_was_reported_does_not_run(own_rig: OwnRig, servers: Servers) -> None:
    """As for a worker whose clock is behind the one that reported it."""
    with own_rig.worker() as worker:
        own_rig.call(
            f"""
from datetime import datetime, timedelta, timezone
from redis import Redis
expires = (datetime.now(timezone.utc) + timedelta(seconds=20)).isoformat()
Redis(port={servers.primary}).set(f"celery-task-meta-reported.0.{{expires}}", "expired")
echo.apply_async(("reported",), task_id="reported", expires=expires)
"""
        )
        worker.wait_for("goes back to its queue: it was reported as expired", 60)
        own_rig.call(
            "assert type(app.AsyncResult('reported').get(timeout=90, propagate=False)).__name__ == 'TaskRevokedError'"
        )
        own_rig.drained(90)
    assert own_rig.runs("echo") == {}
    assert own_rig.depth(own_rig.dead) == (0, 0)


def test_without_the_queue_of_notices_it_is_reported_when_a_worker_receives_it(own_rig: OwnRig) -> None:
    with own_rig.worker(SCRATCH_NOTICES="missing") as worker:
        worker.wait_for("Notices of expired tasks cannot be read from queue missing", 60)
        own_rig.call(
            """
echo.delay("busy", 10)
late = echo.apply_async(("late",), expires=1)
assert type(late.get(timeout=90, propagate=False)).__name__ == "TaskRevokedError"
""",
            SCRATCH_NOTICES="",
        )
        wait_until(lambda: own_rig.depth() == (0, 0), "the queue is empty", 60)
        assert worker.alive
    assert own_rig.runs("echo") == {"busy": 1}

"""A task that expires before it runs ends as REVOKED, and in no dead-letter queue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .stack import wait_until

if TYPE_CHECKING:
    from .rig import Rig

pytestmark = pytest.mark.stack

LIFE = 2  # seconds: of the one that lives longest
EXPIRING = """
import datetime
from celery import chain, group
soon = lambda: datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
ways = [
    echo.apply_async(("seconds",), expires=1),
    echo.apply_async(("datetime",), expires=soon()),
    echo.apply_async(("text",), expires=soon().isoformat()),
    echo.apply_async(("delayed",), countdown=300, expires=2),
    group(echo.s("member").set(expires=1), app=app)().children[0],
    chain(echo.si("first").set(expires=1), echo.si("second"), app=app)().parent,
    app.send_task("scratch.echo", ("name",), expires=1),
]
echo.apply_async(("ignored",), expires=1, ignore_result=True)
print(*[way.id for way in ways])
"""


def test_an_expired_task_is_revoked_by_the_worker_and_not_dead_lettered(rig: Rig) -> None:
    ids = rig.call(EXPIRING).split()[-7:]
    expired = time.monotonic() + LIFE
    wait_until(lambda: time.monotonic() > expired, "all have expired")
    with rig.worker() as worker:
        rig.call(
            f"""
from holdfast import results
for task_id in {ids!r}:
    error = results.get(app.AsyncResult(task_id), timeout=120, propagate=False)
    assert type(error).__name__ == "TaskRevokedError", (task_id, error)
    assert app.AsyncResult(task_id).state == "REVOKED"
"""
        )
        wait_until(lambda: rig.depth() == (0, 0), "the queue is empty")
        assert worker.alive
    assert not rig.runs("echo")
    assert rig.depth(rig.dead) == (0, 0)


def test_stock_celery_lets_the_broker_dead_letter_it_without_a_state(rig: Rig) -> None:
    task_id = rig.call("print(echo.apply_async(('late',), expires=1).id)", STOCK="1").split()[-1]
    wait_until(lambda: rig.depth(rig.dead) == (1, 0), "the broker has dead-lettered it")
    assert rig.call(f"print(app.AsyncResult({task_id!r}).state)").split()[-1] == "PENDING"

"""Stock Celery without the layer, on the broker of ``MOVING_BROKER_URL``; each execution is a line of a file."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, Task

PREFIX = "shop:"
QUEUES = ("celery", "mail", "bulk")


def create(broker: str, results: str) -> Celery[Any]:
    """Return the application as it is on one of the brokers."""
    made: Celery[Any] = Celery("moving", broker=broker, backend=results, set_as_current=False)
    made.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
    if broker.startswith("redis"):
        made.conf.update(
            broker_transport_options={"global_keyprefix": PREFIX},
            worker_soft_shutdown_timeout=10.0,
            worker_enable_soft_shutdown_on_idle=True,
        )
    else:
        made.conf.update(
            task_default_queue_type="quorum", task_default_exchange_type="topic",
            task_create_missing_queue_type="quorum", task_create_missing_queue_exchange_type="topic",
            worker_detect_quorum_queues=True,
        )  # fmt: skip
    return made


app = create(os.environ.get("MOVING_BROKER_URL", "memory://"), os.environ.get("MOVING_RESULT_URL", "cache+memory://"))


def note(task: Task[Any, Any]) -> None:
    """Write down that a task was executed."""
    with open(os.environ["MOVING_LEDGER"], "a", encoding="utf-8") as ledger:  # noqa: PTH123 - one write, one line
        ledger.write(f"{task.request.id} {time.time()}\n")


@app.task(shared=False, name="work", bind=True)
def work(self: Task[Any, Any], number: int, seconds: float = 0.0) -> int:
    """Take some time, then note the execution."""
    time.sleep(seconds)
    note(self)
    return number


@app.task(shared=False, name="total", bind=True)
def total(self: Task[Any, Any], numbers: list[int]) -> int:
    """Sum up a chord."""
    note(self)
    return sum(numbers)

"""Stock Celery on RabbitMQ, with its classic queues or with the quorum queues that take their place."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, Task
from kombu import Exchange, Queue

NAMES = {"celery": "tasks", "bulk": "bulk.q"}  # queues: what they are called as quorum queues


def create(broker: str, kind: str) -> Celery[Any]:
    """Return the application with the ``old`` or the ``new`` queues."""
    made: Celery[Any] = Celery("moving", broker=broker, set_as_current=False)
    made.conf.update(
        task_acks_late=True, worker_prefetch_multiplier=8, task_ignore_result=True, task_publish_retry=False,
        broker_transport_options={"confirm_publish": True}, broker_connection_retry_on_startup=True,
    )  # fmt: skip
    if kind == "old":
        made.conf.task_queues = [Queue(name, Exchange(name), name, max_priority=9) for name in NAMES]
    else:
        made.conf.task_queues = [
            Queue(name, Exchange("jobs", "topic"), name, queue_arguments={"x-queue-type": "quorum"})
            for name in NAMES.values()
        ]
        made.conf.task_default_queue = NAMES["celery"]
    return made


app = create(os.environ.get("MOVING_BROKER_URL", "memory://"), os.environ.get("MOVING_KIND", "old"))


@app.task(shared=False, name="work", bind=True)
def work(self: Task[Any, Any], seconds: float = 0.0) -> None:
    """Take some time, then note the execution."""
    time.sleep(seconds)
    with open(os.environ["MOVING_LEDGER"], "a", encoding="utf-8") as ledger:  # noqa: PTH123 - one write, one line
        ledger.write(f"{self.request.id} {time.time()}\n")

"""The Celery application of callers and workers: Holdfast, Celery's defaults, or the safest that its settings allow."""

from __future__ import annotations

import os
from time import sleep
from typing import Any

from bench import apps
from bench.recovery.notes import DONE, STARTED, note

# What Celery's own documentation offers against loss and long waits; the rest stays as it comes.
SAFEST: dict[str, Any] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": {"confirm_publish": True},
    "broker_heartbeat": 10,  # seconds; as Holdfast's
    "task_publish_retry_policy": {"max_retries": 8, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 3},
    "redis_socket_timeout": 5,  # seconds; as Holdfast's
    "redis_socket_connect_timeout": 2,
    "redis_retry_on_timeout": True,
}
# RabbitMQ 4.3 refuses the queues for remote control that Celery makes by default
_CONTROL = {"control_queue_durable": True, "control_queue_exclusive": False}

_layer = os.environ["BENCH_LAYER"] == "1"
_changes = SAFEST if os.environ.get("BENCH_LATE") == "1" else {}
app = apps.make(layer=_layer, confirm=False, **({} if _layer else _CONTROL | _changes))


@app.task(name="bench.held", shared=False)
def held(number: int, seconds: float) -> int:
    """Note the start, take some time, note the end."""
    note(STARTED, number)
    sleep(seconds)
    note(DONE, number)
    return number

"""A Celery application for tests that break workers: ``celery -A scratch``, without the layer when ``STOCK=1``.

Its settings are Holdfast's either way; without the layer only what the layer brings is missing. Every execution leaves
a line in the file ``SCRATCH_LEDGER``: name of the step, its argument, task id, process id.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.utils.log import get_task_logger

STOCK = bool(os.environ.get("STOCK"))
logger = get_task_logger(__name__)

app = Celery("scratch")
app.config_from_object("holdfast.settings")
app.conf.result_backend_transport_options["durable_patience"] = float(os.environ.get("SCRATCH_PATIENCE", "120"))
if os.environ.get("SCRATCH_PREFIX"):
    app.conf.result_backend_transport_options["global_keyprefix"] = os.environ["SCRATCH_PREFIX"]
if app.conf.holdfast_expired_queue:
    app.conf.holdfast_expired_queue = os.environ.get("SCRATCH_NOTICES")
if os.environ.get("SCRATCH_OTHER_SENTINELS"):
    for options in (app.conf.result_backend_transport_options, app.conf.broker_transport_options):
        if "min_other_sentinels" in options:
            options["min_other_sentinels"] = int(os.environ["SCRATCH_OTHER_SENTINELS"])
app.conf.redbeat_key_prefix = f"redbeat:scratch:{app.conf.task_default_queue}:"
app.conf.holdfast_audit_after = float(os.environ.get("SCRATCH_AUDIT_AFTER", "600"))
app.conf.worker_hijack_root_logger = False
app.conf.broker_failover_strategy = os.environ.get("SCRATCH_FAILOVER", app.conf.broker_failover_strategy)
if os.environ.get("SCRATCH_TICK"):
    app.conf.beat_schedule = {
        "tick": {
            "task": "scratch.tick",
            "schedule": float(os.environ["SCRATCH_TICK"]),
            "options": {"queue": app.conf.task_default_queue},
        }
    }
if STOCK:
    app.conf.worker_consumer = "celery.worker.consumer:Consumer"
    app.conf.update(result_backend=app.conf.result_backend.split("+", 1)[1])
    app.conf.result_backend_always_retry = True
    app.conf.result_backend_max_retries = 3
    app.conf.beat_scheduler = "redbeat.RedBeatScheduler"
else:
    from holdfast.app import install

    install(app)


def note(step: str, argument: object, task: Task[Any, Any]) -> None:
    with Path(os.environ["SCRATCH_LEDGER"]).open("a", encoding="utf-8") as ledger:
        ledger.write(f"{step} {argument} {task.request.id} {os.getpid()}\n")


@app.task(bind=True)
def echo(self: Task[Any, Any], value: Any, seconds: float = 0) -> Any:
    note("echo", value, self)
    time.sleep(seconds)
    note("end", value, self)
    return value


@app.task(bind=True)
def hold(self: Task[Any, Any], value: Any, until: str) -> Any:
    """As echo, for as long as a test wants: until a file is there."""
    note("echo", value, self)
    while not Path(until).exists():
        time.sleep(0.1)
    note("end", value, self)
    return value


@app.task(bind=True)
def tick(self: Task[Any, Any]) -> None:
    note("tick", time.time(), self)


@app.task(bind=True)
def total(self: Task[Any, Any], values: list[int]) -> int:
    note("total", len(values), self)
    return sum(values)


@app.task(bind=True)
def large(self: Task[Any, Any], size: int, fail: bool = False) -> str:
    note("large", size, self)
    if fail:
        raise ValueError("x" * size)
    return "x" * size


@app.task(bind=True)
def odd(self: Task[Any, Any]) -> object:
    note("odd", "-", self)
    return object()


@app.task(bind=True)
def again(self: Task[Any, Any], countdown: float, times: int = 1) -> str:
    delivery: Any = self.request.delivery_info
    queue = str(delivery["routing_key"]).rpartition(".")[2]
    note("again", f"{self.request.retries}/{queue}", self)
    if self.request.retries < times:
        raise self.retry(countdown=countdown, max_retries=times)
    return queue


@app.task(bind=True)
def poison(self: Task[Any, Any]) -> None:
    note("poison", "-", self)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def stubborn(self: Task[Any, Any]) -> None:
    note("stubborn", "-", self)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    time.sleep(600)

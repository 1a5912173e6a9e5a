"""A worker with two children whose broker is a folder, as a process of its own, with the page it serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

APP = """
import os, signal
from pathlib import Path
from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_task_logger
from holdfast.app import install

app = Celery("measured", broker="filesystem://", backend="cache+memory://")
app.conf.update(
    broker_transport_options={"data_folder_in": "in", "data_folder_out": "in", "control_folder": "control"},
    task_acks_late=True, task_acks_on_failure=False, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1,
)
install(app)

@app.task(name="add")
def add(x, y):
    return x + y

@app.task(name="end")
def end(how):
    raise {"failed": ValueError, "dead_lettered": Reject, "ignored": Ignore}[how]()

@app.task(name="again", bind=True)
def again(self):
    if not self.request.retries:
        raise self.retry(countdown=0)

@app.task(name="first")
def first():
    get_task_logger("measured").info("on its way", extra={"tenant": "t1"})
    again.delay()

@app.task(name="killed_once")
def killed_once():
    mark = Path("killed")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Worker:
    """A worker with two children in a folder, and its page."""

    def __init__(self, folder: Path, port: int, **extra: str) -> None:
        self.folder, self.port = folder, port
        (folder / "measured.py").write_text(APP, encoding="utf-8")
        (folder / "in").mkdir(exist_ok=True)
        self.environment = (
            os.environ | {"HOLDFAST_METRICS_PORT": str(port), "HOLDFAST_PULSE_DIR": str(folder / "run")} | extra
        )

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "celery", "-q", "-A", "measured", "worker", "-c", "2", "-l", "INFO"]
        with (self.folder / "log").open("a") as log:
            child = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                wait_for(lambda: "ready." in self.log or child.poll() is not None, self)
                assert child.poll() is None, self.log
                yield child
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def call(self, code: str) -> None:
        environment = {name: value for name, value in self.environment.items() if name != "HOLDFAST_METRICS_PORT"}
        subprocess.run(
            [sys.executable, "-c", f"from measured import *\n{code}"], cwd=self.folder, env=environment, check=True
        )

    def page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def tasks(self) -> dict[tuple[str, str], float]:
        """Return the counted tasks by name and state."""
        return {
            (sample.labels["task"], sample.labels["state"]): sample.value
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
            if sample.name == "holdfast_tasks_total"
        }

    def value(self, name: str) -> float:
        """Return the sum of the samples with this name."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
            if sample.name == name
        )


def wait_for(condition: Callable[[], object], worker: Worker, deadline: float = 90) -> None:
    """Wait until a callable answers with a true value; a page that is not there yet is no answer."""
    end = time.monotonic() + deadline
    while True:
        with suppress(OSError):
            if condition():
                return
        assert time.monotonic() < end, worker.log[-4000:]
        time.sleep(0.1)

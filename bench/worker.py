"""Workers in process groups of their own; they stay for all pairs of a case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.request import urlopen

_PATIENCE = 60  # seconds for a worker to start, or to run the next task
_PROCESSES = "2"
COMMANDS = {
    "celery": [
        "celery", "-A", "bench.tasks", "worker", "-c", _PROCESSES, "-l", "ERROR", "-n", "{queue}@%h",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    ],
    "dramatiq": ["dramatiq", "bench.dramatiq_tasks", "--processes", _PROCESSES, "--threads", "8"],
    "taskiq": [
        "taskiq", "worker", "bench.taskiq_tasks:broker", "--workers", _PROCESSES, "--ack-type", "when_executed",
        "--log-level", "WARNING",
    ],
}  # fmt: skip


class Worker:
    """A worker with two processes.

    Args:
        kind: one of :data:`COMMANDS`.
        environment: what it finds in its environment, see :mod:`bench.tasks`.
    """

    def __init__(self, kind: str, environment: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._tally = Path(self._folder.name) / "tally"
        self._tally.touch()
        self._log = Path(self._folder.name) / "log"
        self._port = environment.get("HOLDFAST_METRICS_PORT")
        with self._log.open("w") as log:
            self._child = subprocess.Popen(
                # two workers of one name would both want its queue for commands
                [sys.executable, "-m", *(word.format(queue=environment["HOLDFAST_QUEUES"]) for word in COMMANDS[kind])],
                env=environment | {"HOLDFAST_PULSE_DIR": self._folder.name, "BENCH_TALLY": str(self._tally)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.group = self._child.pid

    @property
    def ran(self) -> int:
        """How many tasks it has run so far."""
        return self._tally.stat().st_size

    def reach(self, size: int) -> None:
        """Wait until it has run so many tasks.

        Args:
            size: tasks since its start.

        Raises:
            SystemExit: it stands still.
        """
        ran, limit = 0, monotonic() + _PATIENCE
        while (now := self.ran) < size:
            if now > ran:
                ran, limit = now, monotonic() + _PATIENCE
            if monotonic() > limit or self._child.poll() is not None:
                raise SystemExit(
                    f"a worker ran {ran} of {size} tasks and stands still:\n{self._log.read_text()[-3000:]}"
                )
            sleep(0.01)

    def scrape(self) -> None:
        """Read its metrics as Prometheus does, if it serves them."""
        if self._port:
            with urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as page:
                if b"holdfast_tasks_total" not in page.read():
                    raise SystemExit(f"the page on port {self._port} counts no tasks, so there is nothing to measure")

    def end(self) -> None:
        """Kill its process group."""
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.group, signal.SIGKILL)
        self._child.wait()
        self._folder.cleanup()

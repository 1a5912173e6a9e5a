"""How fast a worker empties the queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING
from urllib.request import urlopen

from bench.cluster import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 120  # seconds for a worker to start, or to run the next task


def wall(_group: int) -> float:
    """Return the time in seconds."""
    return monotonic()


def processor(group: int) -> float:
    """Return the seconds of processor time that a process group has used: what else runs does not change them.

    Args:
        group: id of the process group.
    """
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # proc_pid_stat(5) from its third on
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def drain(
    load: Callable[[int], object], count: int, variant: dict[str, str], clock: Callable[[int], float] = wall
) -> float:
    """Return the tasks per second of a worker with two processes, from its tenth part done to the end.

    Args:
        load: puts that many tasks into the queue.
        count: tasks to work off.
        variant: the worker's environment, see :mod:`bench.tasks`.
        clock: tells the seconds for the worker's process group: :func:`wall` or :func:`processor`.
    """
    load(count)
    with tempfile.TemporaryDirectory() as folder:
        tally = Path(folder) / "tally"
        tally.touch()
        with _worker(folder, BENCH_TALLY=str(tally), **variant) as group:
            _reach(tally, count // 10)
            begin = clock(group)
            if port := variant.get("HOLDFAST_METRICS_PORT"):
                _scrape(port)  # once in a run of seconds: more often than Prometheus does
            _reach(tally, count)
            end = clock(group)
    return (count - count // 10) / (end - begin)


def _scrape(port: str) -> None:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        if b"holdfast_tasks_total" not in page.read():
            raise SystemExit(f"the worker's page on port {port} counts no tasks, so there is nothing to measure")


def _reach(tally: Path, size: int) -> None:
    ran, limit = 0, monotonic() + _PATIENCE
    while (now := tally.stat().st_size) < size:
        if now > ran:
            ran, limit = now, monotonic() + _PATIENCE
        if monotonic() > limit:
            raise SystemExit(f"the worker ran {ran} of {size} tasks, and none for {_PATIENCE} s; see its queue: bench")
        sleep(0.01)


@contextmanager
def _worker(folder: str, **extra: str) -> Iterator[int]:
    """Run a worker and yield the id of its process group."""
    command = ["-m", "celery", "-A", "bench.tasks", "worker", "-c", "2", "-l", "ERROR", "-n", "bench@%h"]
    with (Path(folder) / "log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, *command, "--without-gossip", "--without-mingle", "--without-heartbeat"],
            env=os.environ | environment() | {"HOLDFAST_PULSE_DIR": folder} | extra,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield child.pid
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()

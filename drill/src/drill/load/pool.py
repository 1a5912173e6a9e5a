"""The publisher processes of a run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from drill.ledger import Writer
    from drill.load.publisher import Job

BURST = 500_000  # added to a seed: what is published beside a publisher is another sequence
SILENT = 20.0  # seconds until a publisher that gets no acknowledgement ends nevertheless


class Pool:
    """Starts the publishers, counts what they say, stops them.

    Args:
        book: the drill's own ledger; it learns which files must be there.
        folder: for what the publishers write to standard error.
        environment: of the application.
    """

    def __init__(self, book: Writer, folder: Path, environment: Mapping[str, str]) -> None:
        self._book, self._folder, self._environment = book, folder, dict(environment)
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._jobs: dict[str, Job] = {}
        self._counts: dict[str, dict[str, int]] = {}

    def start(self, job: Job) -> None:
        """Start one publisher."""
        self._book.append("writer", name=job.name)
        with (self._folder / f"{job.name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "drill.load.publisher", json.dumps(asdict(job))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,  # Ctrl-C stops the drill, which stops them in order
            )
        self._processes[job.name], self._jobs[job.name] = process, job
        threading.Thread(target=self._listen, args=(job.name, process), daemon=True).start()

    def names(self) -> list[str]:
        """Return the names of the publishers that run."""
        return sorted(self._processes)

    def replace(self, name: str) -> str:
        """Kill a publisher as a crash would, start another one like it, and return its name."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()
        job = self._jobs[name]
        successor = replace(job, name=f"{name}x", seed=job.seed + 1)
        self.start(successor)
        return successor.name

    def rate(self) -> float:
        """Return the tasks per second that all of them are to publish."""
        return sum(self._jobs[name].rate for name in list(self._processes))  # a burst may end meanwhile

    def burst(self, times: float, seconds: float) -> list[str]:
        """Start one more publisher beside each that runs, which publishes ``times`` as much and ends by itself.

        Args:
            times: of the rate of the one that it runs beside.
            seconds: from its first acknowledged task on.

        Returns:
            Their names.
        """
        found = []
        for name in self.names():
            job = self._jobs[name]
            extra = replace(job, name=f"{name}b{len(self._jobs)}", seed=job.seed + BURST, rate=job.rate * times)
            self.start(extra)
            threading.Thread(target=self._end_after, args=(extra.name, seconds), daemon=True).start()
            found.append(extra.name)
        return found

    def _end_after(self, name: str, seconds: float) -> None:
        """Stop a publisher some seconds after its first acknowledged task, or after :data:`SILENT` plus these."""
        process, deadline = self._processes[name], time.monotonic() + SILENT
        while not self.acknowledged([name]) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(seconds)
        if name in self._processes and process.stdin and process.poll() is None:  # else :meth:`stop` was first
            process.stdin.close()
            if process.wait() == 0:  # one that failed stays for :meth:`stop`, which says so
                self._processes.pop(name, None)

    def acknowledged(self, names: Sequence[str]) -> int:
        """Return how many tasks of these publishers were acknowledged, as last heard."""
        return sum(self._counts.get(name, {}).get("acknowledged", 0) for name in names)

    def totals(self) -> dict[str, int]:
        """Return how many tasks were acknowledged and how many publishes failed, as last heard."""
        counts = list(self._counts.values())
        return {key: sum(count[key] for count in counts) for key in ("acknowledged", "failed")}

    def stop(self, timeout: float) -> list[str]:
        """Stop all publishers; each first ends what it is publishing.

        Args:
            timeout: seconds for all of them; above the deadline of a publish.

        Returns:
            What went wrong, in words.
        """
        problems = []
        running = dict(self._processes)  # a burst may end meanwhile
        for process in running.values():
            if process.stdin and process.poll() is None:
                process.stdin.close()
        for name, process in running.items():
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                problems.append(f"publisher {name} did not stop within {timeout:g} s and was killed")
            else:
                if status:
                    problems.append(f"publisher {name} ended with {status}; see {self._folder / name}.log")
        self._processes.clear()
        return problems

    def _listen(self, name: str, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            counts: dict[str, Any] = json.loads(line)
            self._counts[name] = counts

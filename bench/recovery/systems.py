"""The systems that are compared, and their processes: one caller, two workers with two processes each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench import cluster
from bench.recovery import notes

_FOLDER = cluster.ROOT / "build/recovery"
WORKERS = ("one", "two")
COMMANDS = {
    "celery": ["celery", "-A", "bench.recovery.celery_app", "worker", "-c", "2", "-l", "WARNING"],
    "dramatiq": ["dramatiq", "bench.recovery.dramatiq_app", "--processes", "2"],
    "taskiq": ["taskiq", "worker", "bench.recovery.taskiq_app:broker", "--workers", "2", "--log-level", "WARNING"],
}


@dataclass(frozen=True)
class System:
    """One system with its settings.

    Attributes:
        name: what it is called in the table.
        key: what it is asked for by, and the end of its queue's name.
        kind: one of :data:`COMMANDS`.
        environment: see :mod:`bench.recovery.celery_app`.
        apart: its first address of the broker is not the node that will be killed.
        confirms: its publish returns when the broker has the task; else it returns when the task is in a socket.
    """

    name: str
    key: str
    kind: str
    environment: dict[str, str] = field(default_factory=dict)
    apart: bool = False
    confirms: bool = True

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return f"recovery-{self.key}"


SYSTEMS = {
    system.key: system
    for system in (
        System("Holdfast", "holdfast", "celery", {"BENCH_LAYER": "1"}),
        System("Celery, defaults", "celery", "celery", {"BENCH_LAYER": "0"}, confirms=False),
        System("Celery, late, confirmed", "celery-late", "celery", {"BENCH_LAYER": "0", "BENCH_LATE": "1"}),
        System("dramatiq", "dramatiq", "dramatiq"),
        System("taskiq", "taskiq", "taskiq"),
        System("taskiq, another node", "taskiq-apart", "taskiq", apart=True),
    )
}


class Running:
    """The processes of one system.

    Args:
        system: whose.
        results: True stores results, and the caller waits for them.

    Attributes:
        urls: of the brokers, in the order in which everybody tries them.
    """

    def __init__(self, system: System, *, results: bool) -> None:
        self.system = system
        self._results = results
        self._folder = _FOLDER / system.key
        self._folder.mkdir(parents=True, exist_ok=True)
        self._notes = self._folder / "notes"
        self._notes.write_text("")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.urls = cluster.environment()["BENCH_AMQP"].split(",")

    @property
    def notes(self) -> list[notes.Note]:
        """What its caller and its workers have noted so far."""
        return notes.read(self._notes)

    def call(self) -> None:
        """Start the caller."""
        self._start("caller", ["bench.recovery.caller", self.system.kind])

    def work(self) -> None:
        """Start the workers that do not run."""
        for name in WORKERS:
            if name not in self._processes or self._processes[name].poll() is not None:
                own = ["-n", f"{self.system.queue}-{name}@%h"] if self.system.kind == "celery" else []
                self._start(name, [*COMMANDS[self.system.kind], *own])

    def ready(self, since: float) -> bool:
        """Return whether since a moment both workers have run a task, and the caller has published or read a result.

        Args:
            since: monotonic seconds.
        """
        seen = [one for one in self.notes if one.at >= since]
        wanted = notes.ANSWERED if self._results else notes.ACKNOWLEDGED
        ran = {one.worker for one in seen if one.what == notes.DONE}
        return ran == set(WORKERS) and any(one.what == wanted for one in seen)

    def kill(self, name: str) -> None:
        """End all processes of a worker, or of the caller, at once.

        Args:
            name: one of :data:`WORKERS`, or ``caller``.
        """
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self._processes[name].pid, signal.SIGKILL)
        self._processes[name].wait()

    def brokers(self) -> set[str]:
        """Return the addresses of the brokers that the caller is connected to."""
        folder = Path(f"/proc/{self._processes['caller'].pid}")
        sockets, found = set(), set()
        for link in (folder / "fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed just now
                sockets.add(str(link.readlink()))
        for line in (folder / "net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            host, port = fields[2].split(":")
            if f"socket:[{fields[9]}]" in sockets and int(port, 16) == 5672:
                found.add(".".join(str(part) for part in reversed(bytes.fromhex(host))))
        return found

    def end(self) -> None:
        """End all processes."""
        for name in self._processes:
            self.kill(name)

    def _start(self, name: str, module: list[str]) -> None:
        own = self._folder / name
        own.mkdir(exist_ok=True)
        environment = os.environ | cluster.environment() | {
            "HOLDFAST_QUEUES": self.system.queue,
            "HOLDFAST_BROKER_URL": ",".join(self.urls),
            "HOLDFAST_PULSE_DIR": str(own),
            "BENCH_AMQP": ",".join(self.urls),
            "BENCH_RESULTS": str(int(self._results)),
            "BENCH_NOTES": str(self._notes),
            "BENCH_WORKER": "" if name == "caller" else name,
        } | self.system.environment  # fmt: skip
        with (own / "log").open("a") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *module], env=environment, stdout=log, stderr=log, start_new_session=True
            )

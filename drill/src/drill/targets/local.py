"""Workers of the drill's own on this machine, in place of those of the stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from drill.targets.base import Logins, Node, Process

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drill.targets.base import Disks
    from drill.targets.compose import Compose

WORKERS = ("worker1", "worker2")
RESTART = 1.0  # seconds between two looks for workers that have ended by themselves


class LocalWorkers:
    """The target with the stack's workers replaced by processes of this machine.

    One that ends by itself is started again, as in production: stock Celery ends when it has lost its broker too often.

    Args:
        inner: the stack.
        app: the workers' Celery application, as ``-A`` takes it.
        folder: for the workers' logs.
        environment: of the workers.
        spare: servers that take the place of the stack's.
        disks: of those, if they can lose power.
    """

    scrape: Path | None = None  # nobody looks at the dashboards of the drill's own test

    def __init__(
        self,
        inner: Compose,
        app: str,
        folder: Path,
        environment: dict[str, str],
        spare: Compose | None = None,
        *,
        disks: Disks | None = None,
    ) -> None:
        self.disks = disks
        self._inner, self._app, self._folder, self._environment, self._spare = inner, app, folder, environment, spare
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._births: dict[str, int] = dict.fromkeys(WORKERS, 0)
        self._paused: set[str] = set()
        self._wanted: set[str] = set()  # those that nobody has killed or stopped
        self._changing = threading.RLock()
        self._over = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self.name = f"local workers on {inner.name}"
        kept = {name: node for name, node in inner.nodes.items() if node.tier not in {"worker", "beat", "relay"}}
        self.nodes = (
            kept | (spare.nodes if spare else {}) | {name: Node(name, "worker", "", name, name) for name in WORKERS}
        )

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)  # another checkout may have started the stack
        for name in WORKERS:
            self.start(self.nodes[name])
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._supervisor.join()
        for process in self._processes.values():
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def logins(self) -> Logins:
        """Return the logins of the stack without that of operators, which the drill's virtual host does not know."""
        return replace(self._inner.logins(), operator={})

    def refresh(self) -> None:
        """Do nothing: nobody operates the stack meanwhile."""

    def states(self) -> dict[str, str]:
        """Return the states of the containers and of the local workers."""
        mine = {
            name: "paused" if name in self._paused else "running" if self._alive(name) else "exited" for name in WORKERS
        }
        found = self._inner.states() | (self._spare.states() if self._spare else {}) | mine
        return {name: state for name, state in found.items() if name in self.nodes}

    def birth(self, node: Node) -> str:
        """Return what changes with the main process."""
        return str(self._births[node.name]) if node.name in WORKERS else self._inner.birth(node)

    def kill(self, nodes: Sequence[Node]) -> None:
        """Kill containers and local workers."""
        for node in self._mine(nodes):
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self._unwanted(node).pid, signal.SIGKILL)
            self._processes[node.name].wait()
        if self._others(nodes):
            self._inner.kill(self._others(nodes))

    def crash(self, nodes: Sequence[Node]) -> None:
        """Kill them; local workers are started again, as supervision would do."""
        self.kill(self._mine(nodes))
        for node in self._mine(nodes):
            self.start(node)
        if self._others(nodes):
            self._inner.crash(self._others(nodes))

    def start(self, node: Node) -> None:
        """Start a container or a local worker."""
        if node.name not in WORKERS:
            self._inner.start(node)
            return
        command = ["setpriv", "--pdeathsig", "KILL"]  # a drill that is killed leaves no worker behind
        command += [sys.executable, "-m", "celery", "-A", self._app, "worker", "-Q", "default,critical"]
        command += [
            "-n",
            f"{node.name}@drill",
            "-c",
            "3",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
        with self._changing, (self._folder / f"{node.name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment, start_new_session=True)
            self._processes[node.name] = process
            self._births[node.name] += 1
            self._wanted.add(node.name)

    def stop(self, node: Node) -> None:
        """Stop a container or a local worker in order."""
        if node.name not in WORKERS:
            self._inner.stop(node)
            return
        self._unwanted(node).terminate()
        self._processes[node.name].wait(60)

    def pause(self, node: Node) -> None:
        """Freeze a container or a local worker."""
        if node.name not in WORKERS:
            self._inner.pause(node)
            return
        os.killpg(self._processes[node.name].pid, signal.SIGSTOP)
        self._paused.add(node.name)

    def resume(self, node: Node) -> None:
        """End :meth:`pause`."""
        if node.name not in WORKERS:
            self._inner.resume(node)
            return
        os.killpg(self._processes[node.name].pid, signal.SIGCONT)
        self._paused.discard(node.name)

    def processes(self, node: Node) -> list[Process]:
        """Return the processes of a container or of a local worker."""
        if node.name not in WORKERS:
            return self._inner.processes(node)
        session = str(self._processes[node.name].pid)
        listing = subprocess.run(
            ["ps", "-o", "pid=,ppid=,args=", "-s", session], capture_output=True, text=True, check=False
        )
        fields = [line.split(None, 2) for line in listing.stdout.splitlines()]
        return [Process(int(pid), int(parent), command) for pid, parent, command in fields]

    def run(self, node: Node, *command: str, timeout: float = 60) -> str:
        """Run a command in a container."""
        return self._inner.run(node, *command, timeout=timeout)

    def signal(self, node: Node, pids: Sequence[int], name: str) -> None:
        """Signal processes of this machine, which containers and local workers share."""
        self._inner.signal(node, pids, name)

    def network(self, node: Node, script: str) -> str:
        """Run a script in the network of a container."""
        return self._inner.network(node, script)

    def open_ledger(self, folder: Path) -> None:
        """Let the stack's users write, too."""
        self._inner.open_ledger(folder)

    def fetch_ledger(self, folder: Path) -> None:
        """Do nothing: the workers write into the folder itself."""

    def _unwanted(self, node: Node) -> subprocess.Popen[bytes]:
        """Return the process of a worker that is about to end and stays away."""
        with self._changing:
            self._wanted.discard(node.name)
            return self._processes[node.name]

    def _supervise(self) -> None:
        """Start workers again that have ended by themselves.

        One thread for all of the run: when it ends, the kernel kills what it has started (``--pdeathsig``).
        """
        while not self._over.wait(RESTART):
            with self._changing:
                for name in [name for name in self._wanted if not self._alive(name)]:
                    self.start(self.nodes[name])

    def _alive(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def _mine(self, nodes: Sequence[Node]) -> list[Node]:
        return [node for node in nodes if node.name in WORKERS]

    def _others(self, nodes: Sequence[Node]) -> list[Node]:
        return [node for node in nodes if node.name not in WORKERS]

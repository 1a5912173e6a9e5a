"""A virtual host and workers of the drill's own, beside those of the stack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx

from drill.target import Node, Process
from holdfast.environment import split_urls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drill.mutants import Mutant, Topology
    from drill.target import Compose

VHOST = "drill"
DATABASE = 2  # of the Redis set, for tasks of the comparison
BROKER = "HOLDFAST_BROKER_URL"
WORKERS = ("worker1", "worker2")


def use_vhost(environment: dict[str, str]) -> None:
    """Point the application's environment at the drill's virtual host."""
    environment[BROKER] = _moved(environment[BROKER], VHOST)


def use_redis(environment: dict[str, str], profile: dict[str, str]) -> None:
    """Point the application's environment at Redis as the broker, in the drill's own database."""
    environment[BROKER] = _moved(profile[BROKER], DATABASE)


def _moved(urls: str, name: str | int) -> str:
    return ",".join(urlsplit(url)._replace(path=f"/{name}").geturl() for url in split_urls(urls))


class Lab:
    """The target with the stack's workers replaced by processes of this machine.

    Args:
        inner: the stack.
        folder: for the workers' logs.
        environment: of the workers.
        second: servers that take the place of the stack's.
    """

    def __init__(
        self, inner: Compose, folder: Path, environment: dict[str, str], second: Compose | None = None
    ) -> None:
        self._inner, self._folder, self._environment, self._second = inner, folder, environment, second
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._births: dict[str, int] = dict.fromkeys(WORKERS, 0)
        self._paused: set[str] = set()
        self.name = f"virtual host {VHOST} on {inner.name}"
        kept = {name: node for name, node in inner.nodes.items() if node.tier not in {"worker", "beat", "relay"}}
        self.nodes = (
            kept | (second.nodes if second else {}) | {name: Node(name, "worker", "", name, name) for name in WORKERS}
        )

    def __enter__(self) -> Self:
        for name in WORKERS:
            self.start(self.nodes[name])
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def states(self) -> dict[str, str]:
        """Return the states of the containers and of the local workers."""
        mine = {
            name: "paused" if name in self._paused else "running" if self._alive(name) else "exited" for name in WORKERS
        }
        found = self._inner.states() | (self._second.states() if self._second else {}) | mine
        return {name: state for name, state in found.items() if name in self.nodes}

    def birth(self, node: Node) -> str:
        """Return what changes with the main process."""
        return str(self._births[node.name]) if node.name in WORKERS else self._inner.birth(node)

    def kill(self, nodes: Sequence[Node]) -> None:
        """Kill containers and local workers."""
        for node in self._mine(nodes):
            os.killpg(self._processes[node.name].pid, signal.SIGKILL)
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
        command += [sys.executable, "-m", "celery", "-A", "drill.variants", "worker", "-Q", "default,critical"]
        command += [
            "-n",
            f"{node.name}@drill",
            "-c",
            "3",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
        with (self._folder / f"{node.name}.log").open("ab") as log:
            self._processes[node.name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        self._births[node.name] += 1

    def stop(self, node: Node) -> None:
        """Stop a container or a local worker in order."""
        if node.name not in WORKERS:
            self._inner.stop(node)
            return
        self._processes[node.name].terminate()
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

    def _alive(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def _mine(self, nodes: Sequence[Node]) -> list[Node]:
        return [node for node in nodes if node.name in WORKERS]

    def _others(self, nodes: Sequence[Node]) -> list[Node]:
        return [node for node in nodes if node.name not in WORKERS]


class VirtualHost:
    """Makes the drill's virtual host from the stack's own definitions, and removes it.

    Args:
        address: of a broker.
        password: of the user ``admin``.
        definitions: the stack's topology file.
    """

    def __init__(self, address: str, password: str, definitions: Path) -> None:
        self._client = httpx.Client(base_url=f"http://{address}:15672/api/", auth=("admin", password), timeout=60)
        self._definitions = definitions

    def make(self, mutant: Mutant) -> None:
        """Make it, empty, with the changes of a mutant."""
        self.remove()
        self._ask("PUT", f"vhosts/{VHOST}", {"default_queue_type": "classic" if mutant.stock else "quorum"})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        for user in ("app", "admin"):
            self._ask("PUT", f"permissions/{VHOST}/{user}", everything)
        self._ask("PUT", f"permissions/{VHOST}/monitor", dict.fromkeys(everything, "^$"))
        content = json.loads(self._definitions.read_text())
        kinds = ("policies", "exchanges", "queues", "bindings")
        topology: Topology = {
            kind: [{key: value for key, value in entry.items() if key != "vhost"} for entry in content[kind]]
            for kind in kinds
        }
        if mutant.topology:
            mutant.topology(topology)
        self._ask("POST", f"definitions/{VHOST}", topology)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        answer = self._client.delete(f"vhosts/{VHOST}")
        if answer.status_code not in {204, 404}:
            answer.raise_for_status()

    def _ask(self, method: str, path: str, body: object) -> None:
        self._client.request(method, path, json=body).raise_for_status()

"""What is killed, and how the stack becomes whole again: the drill's target and its heal journal do both."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench import cluster
from bench.recovery import notes
from drill.cli.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.recovery.systems import Running, System
    from drill.targets import Node

FRESH = 0.15  # seconds; a task that has started within them is far from its end
_PATIENCE = 60.0  # seconds for a leader to move, or for a task to be caught while it runs
_WHOLE = 180.0  # seconds for the stack to become whole


@dataclass(frozen=True)
class Fault:
    """What is killed.

    Attributes:
        name: what it is asked for by.
        kills: in words.
        measures: of :data:`bench.recovery.notes.MEASURES`, those that it is about.
        away: seconds until what was killed is started again; of a worker, until the callers stop.
        results: the callers wait for results.
        tier: of the node; empty for a worker.
    """

    name: str
    kills: str
    measures: tuple[str, ...]
    away: float
    results: bool = False
    tier: str = ""

    def concerns(self, system: System) -> bool:
        """Return whether a system takes part: where it connects to matters only when a broker dies."""
        return self.tier == "rabbit" or not system.apart


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("child", "the process that runs a task", ("rerun",), 10),
        Fault("worker", "all processes of a worker", ("rerun",), 10),
        Fault("broker", "the broker that leads the queue", ("accepted", "worked"), 25, tier="rabbit"),
        Fault("redis", "the Redis primary", ("answered",), 20, results=True, tier="redis"),
    )
}


class Place:
    """The running local stack, which the benchmark may break."""

    def __init__(self) -> None:
        self._places = Places.of_project("holdfast", cluster.ROOT / "build")
        self._stack = self._places.stack

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other drills away, refuse a stack that is not whole, and heal it at the end."""
        with self._places.journal.alone():
            self.heal()
            try:
                yield
            finally:
                self.heal()

    def heal(self) -> None:
        """Start what was killed and wait until the whole stack is well.

        Raises:
            SystemExit: it is not.
        """
        problems = self._places.journal.heal(self._stack) + self._stack.wait_healthy(_WHOLE)
        if problems:
            raise SystemExit(f"The stack is not whole: {'; '.join(problems)}. Next: make up, or drill heal")

    def kill(self, fault: Fault, leader: Node | None) -> float:
        """Kill a node, and return the moment at which Docker saw it end.

        Args:
            fault: of a node.
            leader: the broker that leads; unused for Redis.
        """
        node = leader if fault.tier == "rabbit" and leader else self._stack.primary()
        self._places.journal.open([("start", node.name)])
        self._stack.target.kill([node])
        said = self._inspected(node)
        return monotonic() - (datetime.now(UTC) - datetime.fromisoformat(said)).total_seconds()

    @staticmethod
    def _inspected(node: Node) -> str:
        command = ["docker", "inspect", "--format", "{{.State.FinishedAt}}", node.handle]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def broker(self, address: str) -> Node:
        """Return the broker with an address."""
        return next(node for node in self._stack.tier("rabbit") if node.address == address)

    def lead(self, node: Node, queues: Sequence[str]) -> None:
        """Let a broker lead queues.

        Args:
            node: the broker.
            queues: their names.

        Raises:
            SystemExit: it does not within a minute.
        """
        for queue in queues:
            self._stack.ctl(
                node,
                "eval",
                f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{self._stack.vhost}">>, queue, <<"{queue}">>)), '
                f"rabbit_quorum_queue:transfer_leadership(Q, 'rabbit@{node.host}').",
            )
            if not self._stack.wait(partial(self._leads, node, queue), _PATIENCE):
                raise SystemExit(f"{node.name} does not lead {queue}; it is led by {self._stack.leader(queue).name}")

    def _leads(self, node: Node, queue: str) -> bool:
        return self._stack.leader(queue) == node


def rotated(urls: Sequence[str], first: str, *, apart: bool) -> list[str]:
    """Return URLs so that the one with an address comes first, or last.

    Args:
        urls: of the brokers.
        first: the address.
        apart: True puts it last.
    """
    return sorted(urls, key=lambda url: (urlsplit(url).hostname == first) == apart)


def kill_worker(running: Running, *, whole: bool) -> tuple[float, int | None]:
    """Kill what runs a task, and return the moment and the number of the task.

    Args:
        running: the system.
        whole: True kills all processes of the worker, False only the one that runs the task.

    Raises:
        SystemExit: no task was caught while it ran.
    """
    limit = monotonic() + _PATIENCE
    while monotonic() < limit:
        found = notes.running(running.notes, monotonic() - FRESH)
        if not found:
            sleep(0.01)
            continue
        moment = monotonic()
        if whole:
            running.kill(found.worker)
        else:
            os.kill(found.pid, signal.SIGKILL)
        if any(one.what == notes.DONE and one.number == found.number for one in running.notes):
            raise SystemExit(f"{running.system.name} ended its task before it was killed: this machine is too busy")
        return moment, found.number
    raise SystemExit(f"{running.system.name} ran no task within {_PATIENCE:g} s; its logs are in build/recovery")

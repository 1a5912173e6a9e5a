"""One side of a comparison: a client, with a worker behind it or without, and what both cost."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from bench import cluster, meter
from bench.report import Sample
from bench.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WARM_UP = 200  # messages


@dataclass(frozen=True)
class Side:
    """What runs.

    Attributes:
        name: what it is called in the table.
        client: one of :data:`bench.clients.CLIENTS`.
        worker: one of :data:`bench.worker.COMMANDS`, or None for publishing alone.
        environment: of the client and the worker, see :mod:`bench.tasks` and :mod:`bench.apps`.
        whole: False counts the processor time of the worker alone.
        keep: True leaves what waits in the queue; otherwise a client without a worker finds it empty.
        after: removes what the side has left behind.
    """

    name: str
    client: str
    worker: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    whole: bool = True
    keep: bool = False
    after: Callable[[], None] | None = None


class Running:
    """A side with its processes.

    Args:
        side: what runs.
        queues: those that it has for itself.
    """

    def __init__(self, side: Side, *queues: str) -> None:
        self._side = side
        self._queues = queues
        self._stack = ExitStack()
        environment = surroundings(side.environment, *queues)
        try:
            self._worker = Worker(side.worker, environment) if side.worker else None
            if self._worker:
                self._stack.callback(self._worker.end)
            self._client = subprocess.Popen(
                [sys.executable, "-m", "bench.clients", side.client],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
            self._stack.callback(self._client.communicate)
            self._stack.callback(self._client.kill)
            self.run(_WARM_UP)
            for queue in queues:
                cluster.require_quorum(queue)
        except BaseException:
            self.end()
            raise

    def run(self, count: int) -> Sample:
        """Publish messages, wait until the worker has run them, and return what that took.

        Args:
            count: messages.
        """
        before = self._worker.ran if self._worker else 0
        if not self._worker and not self._side.keep:
            for queue in self._queues:
                cluster.purge(queue)
        self._ask(f"prepare {count}")

        def work() -> None:
            self.publish(count)
            if self._worker:
                self._worker.reach(before + count)
                self._worker.scrape()

        return measured(count, work, self._everything, self._used)

    def publish(self, count: int) -> None:
        """Publish messages, as the client does.

        Args:
            count: messages.
        """
        self._ask(str(count))

    def end(self) -> None:
        """Stop the processes."""
        self._stack.close()

    def _ask(self, line: str) -> None:
        assert self._client.stdin is not None  # noqa: S101 - opened as pipes
        assert self._client.stdout is not None  # noqa: S101 - as above
        self._client.stdin.write(f"{line}\n")
        self._client.stdin.flush()
        if not self._client.stdout.readline():
            raise SystemExit(f"the client {self._side.client!r} ended in a measurement; its error stands above")

    def _everything(self) -> float:
        return meter.servers() + meter.groups(self._client.pid, *([self._worker.group] if self._worker else []))

    def _used(self) -> float:
        if self._side.whole or not self._worker:
            return self._everything()
        return meter.groups(self._worker.group)


def surroundings(extra: dict[str, str], *queues: str) -> dict[str, str]:
    """Return the environment of a client or a worker.

    Args:
        extra: what is its own.
        queues: those that it has for itself.
    """
    return os.environ | cluster.environment() | {"HOLDFAST_QUEUES": ",".join(queues)} | extra


def measured(
    count: int, work: Callable[[], None], everything: Callable[[], float], used: Callable[[], float]
) -> Sample:
    """Do some work and return what it took.

    Args:
        count: messages that the work is about.
        work: what is measured.
        everything: the processor time of everything that takes part, so that the rest is work of others.
        used: the processor time that counts.
    """
    spent, all_of_it, machine, begin = used(), everything(), meter.machine(), monotonic()
    work()
    seconds = monotonic() - begin
    others = meter.machine() - machine - (everything() - all_of_it)
    return Sample(count / seconds, count / (used() - spent), max(0.0, others / seconds))


@contextmanager
def running(side: Side, *queues: str) -> Iterator[Running]:
    """Start a side, with queues of its own, and stop it at the end."""
    every = [name for queue in queues for name in cluster.names(queue)]
    cluster.drop(*every)
    with ExitStack() as stack:
        if side.after:
            stack.callback(side.after)
        stack.callback(cluster.drop, *every)
        if side.worker != "dramatiq":  # it declares its own, which differ
            for queue in queues:
                stack.enter_context(cluster.queue(queue))
        started = Running(side, *queues)
        stack.callback(started.end)
        yield started

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
    from collections.abc import Iterator

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
    """

    name: str
    client: str
    worker: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    whole: bool = True


class Running:
    """A side with its processes.

    Args:
        side: what runs.
        queue: the queue that it has for itself.
    """

    def __init__(self, side: Side, queue: str) -> None:
        self._side = side
        self._queue = queue
        self._stack = ExitStack()
        environment = os.environ | cluster.environment() | {"HOLDFAST_QUEUES": queue} | side.environment
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
        if not self._worker:
            cluster.purge(self._queue)
        used, machine, begin = self._used(), meter.machine(), monotonic()
        everything = self._everything()
        self._publish(count)
        if self._worker:
            self._worker.reach(before + count)
            self._worker.scrape()
        seconds = monotonic() - begin
        others = meter.machine() - machine - (self._everything() - everything)
        return Sample(count / seconds, count / (self._used() - used), max(0.0, others / seconds))

    def end(self) -> None:
        """Stop the processes."""
        self._stack.close()

    def _publish(self, count: int) -> None:
        assert self._client.stdin is not None  # noqa: S101 - opened as pipes
        assert self._client.stdout is not None  # noqa: S101 - as above
        self._client.stdin.write(f"{count}\n")
        self._client.stdin.flush()
        if not self._client.stdout.readline():
            raise SystemExit(f"the client {self._side.client!r} ended in a measurement; its error stands above")

    def _everything(self) -> float:
        return meter.servers() + meter.groups(self._client.pid, *([self._worker.group] if self._worker else []))

    def _used(self) -> float:
        if self._side.whole or not self._worker:
            return self._everything()
        return meter.groups(self._worker.group)


@contextmanager
def running(side: Side, queue: str) -> Iterator[Running]:
    """Start a side, with a queue of its own, and stop it at the end."""
    cluster.drop(*cluster.names(queue))
    with cluster.queue(queue) if side.worker != "dramatiq" else ExitStack():  # dramatiq declares its own, which differ
        started = None
        try:
            started = Running(side, queue)
            yield started
        finally:
            if started:
                started.end()
            cluster.drop(*cluster.names(queue))
            if "HOLDFAST_AUDIT_SHARE" in side.environment:
                cluster.forget_notes()

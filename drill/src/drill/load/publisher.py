"""One publisher process: ``python -m drill.load.publisher JOB``; it stops when its standard input ends.

That happens also when the drill dies, so a killed drill leaves no load behind. Killing this process leaves attempts
without an outcome, which count as unknown.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kombu.utils.imports import symbol_by_name

from drill.ledger import SUFFIX, Writer
from drill.load import sequence
from holdfast import outbox
from holdfast.publisher import Message, publisher_of
from holdfast.publisher.many import publish_many
from holdfast.routing import EXCHANGE
from webhooks import db

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery
    from celery.canvas import Signature

LATEST = 1.0  # seconds; a publisher that was held up longer does not catch up: the rate is a rate, not a debt


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        folder: of the run's ledger.
        name: of the process; part of its task ids.
        rate: tasks per second.
        threads: callers that publish at the same time.
        mix: weight of each kind of task.
        ways: weight of each way to publish.
        app: the Celery application, as ``module:name``.
        ledger: class of the ledger's writer, as ``module:name``; the drill's own test replaces it.
    """

    folder: str
    run: str
    name: str
    seed: int
    rate: float
    threads: int
    mix: dict[str, int]
    ways: dict[str, int]
    app: str = "webhooks.app:app"
    ledger: str = "drill.ledger:Writer"


class LedgerPublisher:
    """Publishes batches and notes each attempt before and each outcome after.

    An attempt outlives this process and waits for no disk: a power cut where the publishers run ends the drill, too.
    It puts all files on the disk before it notes that a run has ended, and a run without that never passes.
    """

    def __init__(self, app: Celery, book: Writer, stop: threading.Event) -> None:
        self.app, self.book, self.stop = app, book, stop
        self.acknowledged = self.failed = 0
        self._ways: dict[str, Callable[[list[sequence.Item]], Iterator[tuple[str, str, str]]]] = {
            "single": self._single,
            "bulk": self._bulk,
            "outbox": self._outbox,
        }

    def publish(self, batch: sequence.Batch) -> None:
        """Publish a batch; no error leaves this method unless the ledger cannot be written."""
        for item in batch.items:
            self.book.append("attempt", id=item.id, task=item.kind, path=batch.way, poison=item.poison)
        open_ids = {item.id for item in batch.items}
        error = "the call returned without this outcome"
        try:
            for task_id, result, error_name in self._ways[batch.way](batch.items):
                open_ids.discard(task_id)
                self._note(task_id, result, error_name)
        except Exception as caught:  # noqa: BLE001 - whatever a publish raises, its outcome is unknown
            error = f"{type(caught).__name__}: {caught}"[:200]
        for task_id in open_ids:
            self._note(task_id, "error", error)

    def _note(self, task_id: str, result: str, error: str) -> None:
        fields = {"error": error} if error else {}
        self.book.append("outcome", id=task_id, result=result, **fields)
        if result == "error":
            self.failed += 1
        else:
            self.acknowledged += 1

    def _signature(self, item: sequence.Item) -> Signature[Any]:
        return self.app.signature(item.task, args=item.args, options={**item.options, "task_id": item.id})

    def _single(self, items: list[sequence.Item]) -> Iterator[tuple[str, str, str]]:
        for item in items:
            if item.task:
                self._signature(item).apply_async()
            else:
                properties = {"correlation_id": item.id, "delivery_mode": 2}
                message = Message(
                    EXCHANGE, "default", b"\x00 no task", "application/x-nothing", "binary", {}, properties
                )
                publisher_of(self.app).publish(message)
            yield item.id, "acknowledged", ""

    def _bulk(self, items: list[sequence.Item]) -> Iterator[tuple[str, str, str]]:
        tasks = [item for item in items if item.task]
        for outcome in publish_many(self.app, [self._signature(item) for item in tasks]):
            error = "" if outcome.error is None else f"{type(outcome.error).__name__}: {outcome.error}"[:200]
            result = "error" if error else "stored" if outcome.stored else "acknowledged"
            yield cast("str", outcome.task_id), result, error
        yield from self._single([item for item in items if not item.task])

    def _outbox(self, items: list[sequence.Item]) -> Iterator[tuple[str, str, str]]:
        with db.transaction() as session:
            for item in items:
                outbox.enqueue(session, self._signature(item))
        for item in items:
            yield item.id, "stored", ""


def main() -> None:
    """Publish until standard input ends; print a line of counts each second."""
    job = Job(**json.loads(sys.argv[1]))
    writer: type[Writer] = symbol_by_name(job.ledger)
    book = writer(Path(job.folder) / f"{job.name}{SUFFIX}", job.run, job.name)
    stop = threading.Event()
    publisher = LedgerPublisher(symbol_by_name(job.app), book, stop)
    slots = _slots(job, stop)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                batch = next(slots, None)
            if batch is None:
                return
            publisher.publish(batch)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(job.threads)]
    threads.append(threading.Thread(target=_report, args=(publisher, stop), daemon=True))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    book.close()


def _slots(job: Job, stop: threading.Event) -> Iterator[sequence.Batch]:
    """Yield each batch at its time; the callers hold a lock, so that one of them waits and the others queue."""
    due = time.monotonic()
    for batch in sequence.batches(f"{job.run}.{job.name}", job.seed, job.mix, job.ways):
        if stop.wait(max(0.0, due - time.monotonic())):
            return
        due = max(due, time.monotonic() - LATEST) + len(batch.items) / job.rate
        yield batch


def _report(publisher: LedgerPublisher, stop: threading.Event) -> None:
    while not stop.wait(1):
        print(json.dumps({"acknowledged": publisher.acknowledged, "failed": publisher.failed}), flush=True)


if __name__ == "__main__":
    main()

"""The sample application's promises about its rows, on PostgreSQL: what SQLite grants by letting one writer in."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from webhooks import db, delivery, intake, tasks
from webhooks.models import DELIVERED, Delivery, Effect, now
from webhooks.receiver import Log, Receiver

from .postgres import scratch_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def database(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The application's tables in a schema of this test's own."""
    for name, value in stack.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WEBHOOKS_ALLOWED_NETWORKS", "127.0.0.0/8")  # the receiver of these tests
    with scratch_schema(stack.settings) as engine:
        monkeypatch.setenv("WEBHOOKS_DATABASE_URL", engine.url.render_as_string(hide_password=False))
        db.create_tables()
        yield


class Crowded(Receiver):
    """Answers nobody before a second request is there, or for 8 s: the sender waits for 10."""

    def __init__(self, log: Log) -> None:
        super().__init__(("127.0.0.1", 0), log)
        self._first, self._crowded = threading.Lock(), threading.Event()

    def answer(self, path: str) -> tuple[int, float]:
        if not self._first.acquire(blocking=False):
            self._crowded.set()
        self._crowded.wait(8)
        return super().answer(path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver in this process."""
    with Crowded(Log(tmp_path / "receiver.jsonl")) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_executions_at_the_same_time_have_one_effect(server: Receiver) -> None:
    copies = 6
    url = f"http://127.0.0.1:{server.server_port}/hook"
    accepted = intake.accept([intake.Request(url, {}, "default")])[0].id
    together = threading.Barrier(copies)

    def execute(_: int) -> object:
        together.wait()
        return tasks.deliver.apply((accepted,), task_id=accepted).result

    with ThreadPoolExecutor(copies) as pool:
        assert list(pool.map(execute, range(copies))) == [{"delivery": accepted, "status": 200}] * copies

    with db.transaction() as session:
        row = session.get_one(Delivery, accepted)
        assert (row.status, row.attempts) == (DELIVERED, 1)
        assert session.scalar(select(func.count()).select_from(Effect)) == 1
    assert server.log.counts("/hook")["requests"] > 1, "the copies did not overlap, so this showed nothing"
    assert server.log.counts("/hook")["unique"] == 1


def test_sweeps_at_the_same_time_share_what_is_overdue() -> None:
    rows = intake.accept(intake.Request("http://127.0.0.1:1/", number, "default") for number in range(40))
    with db.transaction() as session:
        for row in rows:
            late = session.get_one(Delivery, row.id)
            late.created_at = late.next_attempt_at = now() - timedelta(minutes=5)

    with ThreadPoolExecutor(4) as pool:
        taken = [row.id for part in pool.map(delivery.take_overdue, [40] * 4) for row in part]

    assert sorted(taken) == sorted(row.id for row in rows), "each once"


def test_reports_written_at_the_same_time_are_one() -> None:
    rows = intake.accept([intake.Request("http://127.0.0.1:1/", {}, "default")], batch=True)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(delivery.write_report, [str(rows[0].batch_id)] * 4))

"""The application on SQLite with a real receiver on loopback; no broker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from webhooks import db, intake, receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Point the application at a new database, and at servers that nothing connects to."""
    monkeypatch.setenv("HOLDFAST_BROKER_URL", "amqp://app:secret@192.0.2.11:5672/holdfast")
    monkeypatch.setenv("HOLDFAST_RESULT_URL", "sentinel://app:secret@192.0.2.31:26379/0")
    monkeypatch.setenv("HOLDFAST_SENTINEL_MASTER", "results")
    monkeypatch.setenv("WEBHOOKS_DATABASE_URL", f"sqlite:///{tmp_path / 'webhooks.sqlite3'}")
    monkeypatch.setenv("WEBHOOKS_MAX_ATTEMPTS", "4")
    monkeypatch.setenv("WEBHOOKS_TIMEOUT", "20")
    monkeypatch.setenv("WEBHOOKS_ALLOWED_NETWORKS", "127.0.0.0/8")  # the receiver of these tests
    db.create_tables()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[receiver.Receiver]:
    """A running receiver."""
    log = receiver.Log(tmp_path / "receiver.jsonl")
    with receiver.Receiver(("127.0.0.1", 0), log) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
    log.close()


@pytest.fixture
def url(server: receiver.Receiver) -> str:
    """The receiver's address to deliver to."""
    return f"http://127.0.0.1:{server.server_port}/hook"


@pytest.fixture
def accepted(url: str) -> str:
    """Id of an accepted delivery to the receiver."""
    return intake.accept([intake.Request(url=url, payload={"n": 1}, queue="default")])[0].id

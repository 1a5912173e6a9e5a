"""What a worker tells of its tasks, and how often it speaks."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Exchange
from kombu.asynchronous import Hub

from holdfast.events import BATCH, Dispatcher, LossyPublisher

if TYPE_CHECKING:
    from collections.abc import Iterator


class Recording(LossyPublisher):
    """Remembers what would be sent."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self.sent: list[Any] = []

    def publish(self, body: Any, *_: Any, **__: Any) -> bool:
        """Remember the body."""
        self.sent.append(body)
        return True


@pytest.fixture
def app() -> Celery:
    """An application without a broker."""
    return Celery("events", broker="memory://", set_as_current=False)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An event loop."""
    hub = Hub()
    yield hub
    hub.close()


def run(hub: Hub, lossy: Recording, messages: int) -> None:
    """Run the event loop until so many messages are sent, at most ten seconds."""
    end = monotonic() + 10
    while len(lossy.sent) < messages and monotonic() < end:
        hub.run_once()


def test_the_events_of_tasks_are_gathered_into_one_message(app: Celery, hub: Hub) -> None:
    lossy = Recording(app)
    dispatcher = Dispatcher(lossy, hub, app=app, hostname="here")
    for name in ("received", "started", "succeeded"):
        dispatcher.send(f"task-{name}", uuid="some-id")
    assert lossy.sent == []
    run(hub, lossy, 1)
    assert [[event["type"] for event in batch] for batch in lossy.sent] == [
        ["task-received", "task-started", "task-succeeded"]
    ]
    dispatcher.send("task-received", uuid="another")
    run(hub, lossy, 2)
    assert len(lossy.sent) == 2


def test_a_full_batch_waits_for_nobody(app: Celery, hub: Hub) -> None:
    lossy = Recording(app)
    dispatcher = Dispatcher(lossy, hub, app=app, hostname="here")
    for _ in range(BATCH):
        dispatcher.send("task-received", uuid="some-id")
    assert [len(batch) for batch in lossy.sent] == [BATCH]


def test_without_an_event_loop_each_event_goes_at_once(app: Celery) -> None:
    lossy = Recording(app)
    Dispatcher(lossy, None, app=app, hostname="here").send("task-received", uuid="some-id")
    assert [event["type"] for event in lossy.sent] == ["task-received"]


def test_the_broker_can_tell_that_the_worker_has_gone(app: Celery) -> None:
    app.conf.broker_heartbeat = 7
    lossy = LossyPublisher(app)
    assert lossy.publish({}, Exchange("events"), "worker.online")
    assert lossy._connection is not None
    assert lossy._connection.heartbeat == 7

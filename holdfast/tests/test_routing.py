"""Every publish goes to the queue that was meant."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import QueueNotFound

from holdfast import routing

DELAY_OF_3 = "0." * 26 + "1.1."  # as kombu writes it in front of a routing key


@pytest.fixture
def app() -> Celery:
    app = Celery("test", broker="amqp://192.0.2.1")
    app.conf.update(
        task_queues=routing.queues(("default", "critical")),
        task_default_queue="default",
        task_default_exchange=routing.EXCHANGE,
        task_default_exchange_type="topic",
        task_create_missing_queues=False,
        task_routes=(routing.Router("default"),),
    )
    return app


def published(app: Celery, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """Return the options with which Celery would hand the message to the producer; nothing connects."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        app.amqp, "send_task_message", lambda _producer, _name, _message, **options: seen.update(options)
    )
    producer = app.amqp.Producer(app.connection_for_write(), auto_declare=False)
    app.send_task("some.task", producer=producer, ignore_result=True, **options)
    return seen


def test_a_plain_publish_goes_to_the_default_queue(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    options = published(app, monkeypatch)
    assert options["queue"].name == "default"


def test_a_chosen_queue_stays(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    options = published(app, monkeypatch, queue="critical")
    assert options["queue"].name == "critical"


def test_a_countdown_waits_in_the_broker_and_keeps_its_queue(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    options = published(app, monkeypatch, queue="critical", countdown=3)
    assert options["exchange"].name == "celery_delayed_27"
    assert options["routing_key"] == DELAY_OF_3 + "critical"


@pytest.mark.parametrize(
    "arrived",
    [
        {"exchange": "tasks", "routing_key": "critical"},
        {"exchange": "celery_delayed_delivery", "routing_key": DELAY_OF_3 + "critical"},
    ],
)
def test_a_delayed_retry_keeps_the_queue_it_came_from(
    app: Celery, monkeypatch: pytest.MonkeyPatch, arrived: dict[str, str]
) -> None:
    options = published(app, monkeypatch, countdown=3, **arrived)
    assert options["exchange"].name == "celery_delayed_27"
    assert options["routing_key"] == DELAY_OF_3 + "critical"


def test_an_immediate_retry_keeps_its_exchange(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    options = published(app, monkeypatch, exchange="tasks", routing_key="critical")
    assert (options["exchange"], options["routing_key"]) == ("tasks", "critical")
    assert options.get("queue") is None


def test_an_unknown_queue_is_refused(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QueueNotFound, match="typo"):
        published(app, monkeypatch, queue="typo")


def test_clients_declare_nothing() -> None:
    queue: Any
    for queue in routing.queues(("default",)):
        assert queue.no_declare
        assert queue.exchange.no_declare
        assert queue.queue_arguments == {"x-queue-type": "quorum"}

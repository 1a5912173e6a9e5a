"""What the consumer decides by itself, without a broker; what it does there is tested against real ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.worker.consumer import Consumer as CeleryConsumer

from holdfast.consumer import Consumer

if TYPE_CHECKING:
    from kombu import Connection

NODES = "amqp://one//;amqp://two//;amqp://three//"


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a consumer that has not started and whose connections stay closed."""
    monkeypatch.setattr(Consumer, "ensure_connected", lambda _self, connection: connection)

    def make(url: str, strategy: str) -> Consumer:
        consumer = Consumer.__new__(Consumer)
        consumer.app = Celery(broker=url, broker_failover_strategy=strategy, set_as_current=False)
        consumer._place = (None, None)
        return consumer

    return make


def hosts(consumer: Consumer, times: int) -> list[str | None]:
    found: list[Connection] = [consumer.connection_for_read() for _ in range(times)]
    return [connection.hostname for connection in found]


def test_workers_spread_over_the_nodes_and_never_return_to_the_one_they_left(make: Any) -> None:
    seen = hosts(make(NODES, "shuffle"), 100)
    assert set(seen) == {"one", "two", "three"}
    assert all(here != before for here, before in zip(seen[1:], seen, strict=False))
    assert len({hosts(make(NODES, "shuffle"), 1)[0] for _ in range(100)}) == 3


def test_a_chosen_order_of_nodes_is_kept(make: Any) -> None:
    assert hosts(make(NODES, "round-robin"), 4) == ["one", "two", "one", "two"]


@pytest.mark.parametrize("url", ["amqp://one//", "amqp://one//;amqp://one//"])
def test_one_node_is_all_there_is(make: Any, url: str) -> None:
    assert hosts(make(url, "shuffle"), 2) == ["one", "one"]


@pytest.mark.parametrize(
    ("expires", "opens"),
    [("2020-01-01T00:00:00+00:00", True), ("2020-01-01T00:00:00", False), (None, False)],
)
def test_only_what_a_window_would_know_as_expired_opens_one(
    monkeypatch: pytest.MonkeyPatch, expires: str | None, opens: bool
) -> None:
    monkeypatch.setattr(
        CeleryConsumer, "create_task_handler", lambda _self: lambda message: message.settle_expired("a request")
    )
    noted: list[Any] = []
    consumer: Any = Consumer.__new__(Consumer)
    consumer.connection_errors = consumer.channel_errors = ()
    consumer.heartbeat = SimpleNamespace(received=0)
    consumer.expired = SimpleNamespace(seen=lambda *found: noted.append(found), add=noted.append)
    message = SimpleNamespace(headers={"expires": expires}, delivery_info={}, queue="q")
    consumer.create_task_handler()(message)
    assert noted == [("q", opens), "a request"]
    assert consumer.heartbeat.received == 1

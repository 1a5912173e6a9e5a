"""Which node a worker connects to, without a broker; what it does there is tested against real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

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

"""The same task for dramatiq: confirmed, every node of the cluster known, results through Sentinel."""

from __future__ import annotations

import os
from time import sleep
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from redis.sentinel import Sentinel

from bench.recovery.notes import DONE, STARTED, note
from bench.recovery.stores import sentinels

_stored = os.environ.get("BENCH_RESULTS") == "1"
_HEARTBEAT = "?heartbeat=10"  # seconds; as Holdfast's

broker = RabbitmqBroker(
    url=[f"{url}{_HEARTBEAT}" for url in os.environ["BENCH_AMQP"].split(",")], confirm_delivery=True
)
if _stored:
    _nodes, _primary, _asked, _given = sentinels()
    _client = Sentinel(_nodes, sentinel_kwargs=_asked, **_given).master_for(_primary)
    results: Any = Results  # untyped
    broker.add_middleware(results(backend=RedisBackend(client=_client)))
dramatiq.set_broker(broker)


def run(number: int, seconds: float) -> int | None:
    """Note the start, take some time, note the end."""
    note(STARTED, number)
    sleep(seconds)
    note(DONE, number)
    return number if _stored else None


_options: dict[str, Any] = {"store_results": True} if _stored else {}
held: Any = dramatiq.actor(queue_name=os.environ["HOLDFAST_QUEUES"], actor_name="held", **_options)(run)

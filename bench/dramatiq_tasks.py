"""The same task for dramatiq: confirmed, on a quorum queue (the stack's default), with its own middleware."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.tally import nothing

QUEUE = os.environ["HOLDFAST_QUEUES"]
_stored = os.environ.get("BENCH_RESULTS") == "1"

broker = RabbitmqBroker(url=os.environ["BENCH_AMQP"].split(","), confirm_delivery=True)
if _stored:
    results: Any = Results  # untyped
    broker.add_middleware(results(backend=RedisBackend(url=os.environ["BENCH_REDIS"])))
dramatiq.set_broker(broker)


def run(n: int, key: str) -> int | None:
    """Count one run; return something that is stored, if results are."""
    nothing(n, key)
    return n if _stored else None


_options: dict[str, Any] = {"store_results": True} if _stored else {}
task: Any = dramatiq.actor(queue_name=QUEUE, actor_name="bench", **_options)(run)

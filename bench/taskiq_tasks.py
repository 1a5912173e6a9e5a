"""The same task for taskiq: confirmed (aio-pika's default), on the same kind of queue, acknowledged after the run."""

from __future__ import annotations

import os

from taskiq_aio_pika import AioPikaBroker, Exchange, Queue
from taskiq_redis import RedisAsyncResultBackend

from bench.cluster import EXCHANGE
from bench.tally import nothing

QUEUE = os.environ["HOLDFAST_QUEUES"]
_stored = os.environ.get("BENCH_RESULTS") == "1"

broker = AioPikaBroker(
    os.environ["BENCH_AMQP"].partition(",")[0],
    qos=100,
    exchange=Exchange(name=EXCHANGE, declare=False),
    task_queues=[Queue(name=QUEUE, declare=False)],
    dead_letter_queue=Queue(name=QUEUE, declare=False),  # the stack's own is by policy
)
if _stored:
    broker = broker.with_result_backend(RedisAsyncResultBackend(os.environ["BENCH_REDIS"], result_ex_time=3600))


@broker.task("bench")
async def task(n: int, key: str) -> int | None:
    """Count one run; return something that is stored, if results are."""
    nothing(n, key)
    return n if _stored else None

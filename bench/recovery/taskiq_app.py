"""The same task for taskiq: confirmed, one address of the broker (it takes no more), results through Sentinel."""

from __future__ import annotations

import asyncio
import os

from taskiq_aio_pika import AioPikaBroker, Exchange, Queue
from taskiq_redis import RedisAsyncSentinelResultBackend

from bench.cluster import EXCHANGE
from bench.recovery.notes import DONE, STARTED, note
from bench.recovery.stores import sentinels

_QUEUE = os.environ["HOLDFAST_QUEUES"]
_LIMITS = "?heartbeat=10&reconnect_interval=1"  # seconds; as Holdfast's, and instead of 5

broker = AioPikaBroker(
    os.environ["BENCH_AMQP"].partition(",")[0] + _LIMITS,
    exchange=Exchange(name=EXCHANGE, declare=False),
    task_queues=[Queue(name=_QUEUE, declare=False)],
    dead_letter_queue=Queue(name=_QUEUE, declare=False),  # the stack's own is by policy
)
if os.environ.get("BENCH_RESULTS") == "1":
    _nodes, _primary, _asked, _given = sentinels()
    broker = broker.with_result_backend(
        RedisAsyncSentinelResultBackend(_nodes, _primary, sentinel_kwargs=_asked, result_ex_time=3600, **_given)
    )


@broker.task("held")
async def held(number: int, seconds: float) -> int:
    """Note the start, take some time, note the end."""
    note(STARTED, number)
    await asyncio.sleep(seconds)
    note(DONE, number)
    return number

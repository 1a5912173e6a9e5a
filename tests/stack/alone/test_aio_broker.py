"""Publishing from coroutines to a real broker: how fast, and how long the event loop stands still."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Connection, Queue
from loop_stall import Stall, recorded

from holdfast import aio, publisher
from holdfast.publisher import NotAcknowledged

from ..servers import container_of
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..servers import Servers

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

QUEUE = "aio"
COUNT = 5000
ATTEMPT = 5.0  # seconds; a loop that waits for a broker itself stands still for as long
# In a process that is started before: starting one holds up every thread of this one while the machine is busy.
# A test that fails ends it, too, and leaves no frozen broker to those after it.
FREEZE = 'read x && docker pause "$1" >&2 && echo frozen; read x; docker unpause "$1" >&2'


@pytest.fixture
def app(servers: Servers) -> Iterator[Celery]:
    """An app whose tasks go to a quorum queue of their own."""
    app = Celery("aio", broker=servers.broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_queues=[Queue(QUEUE, queue_arguments={"x-queue-type": "quorum"}, no_declare=True)],
        task_ignore_result=True,
        holdfast_publish_deadline=120.0,
    )
    publisher.install(app)

    @app.task(name="add", shared=False)
    def add(x: int) -> int:
        return x

    with Connection(servers.broker_url) as connection:
        queue = Queue(QUEUE, exchange=QUEUE, routing_key=QUEUE, queue_arguments={"x-queue-type": "quorum"})
        queue(connection.default_channel).declare()
        yield app
        aio.dispatch.close(app)
        queue(connection.default_channel).delete()


def depth(servers: Servers) -> int:
    with Connection(servers.broker_url) as connection:
        return int(connection.default_channel.queue_declare(QUEUE, passive=True).message_count)


def test_thousands_of_calls_share_a_connection_and_the_loop_goes_on(app: Celery, servers: Servers) -> None:
    app.conf.holdfast_publish_attempt = 60.0  # no copy of what a busy broker acknowledges late

    async def run() -> tuple[float, Stall, float, int]:
        async with recorded() as own:  # what asyncio itself needs to begin so many at once
            await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(COUNT)))
        async with aio.running(app):
            await aio.delay(app.tasks["add"], -1)
            threads = threading.active_count()
            async with recorded() as stall:
                begin = monotonic()
                await asyncio.gather(*(aio.delay(app.tasks["add"], number) for number in range(COUNT)))
                took = monotonic() - begin
            return took, stall, own.longest, threading.active_count() - threads

    took, stall, own, threads = asyncio.run(run())
    print(
        f"{COUNT} delays in {took:.2f} s ({COUNT / took:.0f}/s), longest stall {stall.longest * 1000:.0f} ms, of it "
        f"{stall.work * 1000:.0f} ms of work at most; {own * 1000:.0f} ms without any publish"
    )
    assert threads <= 0, "none began; one of another test may have ended"
    assert stall.work < 1.0
    wait_until(lambda: depth(servers) == COUNT + 1, "the broker has every task once", 60)


def test_a_frozen_broker_stalls_no_loop_and_loses_nothing_it_acknowledged(app: Celery, servers: Servers) -> None:
    app.conf.holdfast_publish_attempt = ATTEMPT

    async def call(number: int) -> bool | None:
        try:
            await aio.delay(app.tasks["add"], number)
        except NotAcknowledged as error:
            return None if error.maybe_published else False
        return True

    async def run(freezer: subprocess.Popen[bytes]) -> tuple[list[Any], float]:
        assert freezer.stdin
        assert freezer.stdout
        async with aio.running(app):
            await call(-1)
            async with recorded() as stall:
                freezer.stdin.write(b"\n")
                assert await asyncio.to_thread(freezer.stdout.readline)
                calls = [asyncio.create_task(call(n)) for n in range(500)]
                await asyncio.sleep(8)  # longer than an attempt; less than the deadline
                assert not any(one.done() for one in calls)
                freezer.stdin.write(b"\n")
                return await asyncio.gather(*calls), stall.longest

    command = ["sh", "-c", FREEZE, "sh", container_of(servers.broker)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as freezer:
        outcomes, longest = asyncio.run(run(freezer))
    acknowledged = outcomes.count(True)
    print(f"frozen for 8 s: longest stall {longest * 1000:.0f} ms; {acknowledged} of {len(outcomes)} acknowledged")
    assert longest < ATTEMPT - 1
    assert acknowledged == len(outcomes)
    wait_until(lambda: depth(servers) >= 1 + acknowledged, "the broker has every task", 60)

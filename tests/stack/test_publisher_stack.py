"""Publishing on a healthy cluster: from threads, forks and interrupted calls, every canvas, to any worker."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import chain, group
from kombu import Exchange, Queue
from kombu.exceptions import EncodeError

from holdfast.publisher import publish_many

from .publishing import publishing, stored
from .rig import VHOST
from .stack import wait_until

if TYPE_CHECKING:
    from .rig import Rig

pytestmark = pytest.mark.stack


def test_threads_share_one_connection_and_lose_nothing(rig: Rig) -> None:
    ids: list[str] = []
    with publishing(rig, "rabbit1") as echo:
        before = connections(rig)

        def publish() -> None:
            ids.extend(echo.delay(n).id for n in range(25))

        threads = [threading.Thread(target=publish) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: connections(rig) <= before + 1, "no thread has one of its own")  # one given up goes later
    assert len(set(ids)) == 64 * 25
    assert set(stored(rig)) == set(ids)


def test_a_forked_child_publishes_on_a_connection_of_its_own(rig: Rig) -> None:
    with publishing(rig) as echo:
        parent = [echo.delay(0).id]
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write, " ".join(echo.delay(n).id for n in range(50)).encode())
            finally:
                os._exit(0)
        parent += [echo.delay(n).id for n in range(50)]
        os.waitpid(child, 0)
        parent.append(echo.delay(1).id)
        children = os.read(read, 65536).decode().split()
    assert len(children) == 50
    assert set(stored(rig)) == {*parent, *children}


def test_an_interrupted_call_spoils_no_other(rig: Rig) -> None:
    """A soft time limit may strike anywhere in a publish; the link is dropped and nothing is credited wrongly."""
    struck: list[bool] = []

    def strike(*_: Any) -> None:
        struck.append(True)
        raise SoftTimeLimitExceeded

    previous = signal.signal(signal.SIGALRM, strike)
    finished: list[str] = []
    try:
        with publishing(rig) as echo:
            for n in range(40):
                struck.clear()
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.002 + n * 0.0005)
                    while not struck:  # what strikes in a result's __del__ is never seen
                        finished.append(echo.delay(n).id)
                except (
                    SoftTimeLimitExceeded,
                    EncodeError,
                ):  # the latter is what kombu makes of it
                    finished.append(echo.delay(n).id)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert set(finished) <= set(stored(rig))


def test_a_stock_worker_runs_what_publish_many_sends(rig: Rig) -> None:
    with publishing(rig) as echo:
        outcomes = publish_many(echo.app, (echo.s(f"n{n}") for n in range(300)), window=50)
        assert all(outcome.acknowledged for outcome in outcomes)
        group(echo.s(f"g{n}") for n in range(5)).apply_async()
        chain(echo.si("c1"), echo.si("c2")).apply_async()
        echo.apply_async(("later",), countdown=2)
    with rig.worker(concurrency=2, STOCK="1"):
        rig.drained()
    runs = rig.runs("echo")
    assert {name for name, times in runs.items() if times == 1} >= {f"n{n}" for n in range(300)}
    assert {"g0", "g4", "c1", "c2"} <= runs.keys()


def test_a_missing_queue_is_declared_for_an_app_that_owns_its_topology(rig: Rig) -> None:
    """Most applications let Celery declare their queues; here that happens when the broker says one is missing."""
    name = f"{rig.queue}-own"
    queue = Queue(name, Exchange(name, type="topic"), routing_key=name, queue_arguments={"x-queue-type": "quorum"})
    with publishing(rig) as echo:
        echo.app.amqp.queues.add(queue)
        try:
            echo.apply_async((1,), queue=name)
            wait_until(
                lambda: rig.stack.queue(name, "messages_ready")["messages_ready"] == 1, "the task lies in the new queue"
            )
            rig.api("DELETE", f"queues/{VHOST}/{name}")
            (outcome,) = publish_many(echo.app, [echo.s(1).set(queue=name)])
            assert outcome.acknowledged
        finally:
            rig.api("DELETE", f"queues/{VHOST}/{name}")
            rig.api("DELETE", f"exchanges/{VHOST}/{name}")


def connections(rig: Rig) -> int:
    """Count the connections of admin, which only the tests use."""
    rows = rig.stack.rabbitmqctl("list_connections", "user")
    return sum(row["user"] == "admin" for row in rows)

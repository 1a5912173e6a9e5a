"""Applications that publish to a scratch queue, with the layer in this process or the stock way in another one."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu import Connection

from holdfast import routing
from holdfast.app import install
from holdfast.publisher.durable_amqp import DurableAMQP

from .rig import VHOST, Rig
from .stack import password, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

NODES = ("rabbit1", "rabbit2", "rabbit3")


def urls(rig: Rig, *nodes: str) -> str:
    """Return a broker URL that lists nodes in this order."""
    login = f"admin:{password('RABBITMQ_ADMIN_PASSWORD')}"
    return ";".join(f"amqp://{login}@{rig.stack.address(node)}:5672/{VHOST}" for node in nodes)


def make_app(rig: Rig, *nodes: str, **changes: Any) -> Celery:
    """Return an application with the layer that asks the nodes in the given order."""
    app = Celery("publishing", broker=urls(rig, *(nodes or NODES)), set_as_current=False)
    app.conf.update(
        broker_failover_strategy="round-robin",
        broker_connection_timeout=3,
        task_queues=routing.queues((rig.queue,)),
        task_default_queue=rig.queue,
        task_default_exchange=routing.EXCHANGE,
        task_default_exchange_type="topic",
        task_create_missing_queues=False,
        task_routes=(routing.Router(rig.queue),),
        task_ignore_result=True,
        **{"holdfast_publish_attempt": 3.0, **changes},
    )
    install(app)

    @app.task(name="scratch.echo", shared=False)
    def echo(*_: Any) -> None:
        pass

    return app


@contextmanager
def publishing(rig: Rig, *nodes: str, **changes: Any) -> Iterator[Any]:
    """Give the task of an application with the layer; its connections are closed at the end."""
    app = make_app(rig, *nodes, **changes)
    try:
        yield app.tasks["scratch.echo"]
    finally:
        assert isinstance(app.amqp, DurableAMQP)
        app.amqp.publisher().close()


STOCK = """
import json, sys, time
app.conf.broker_url = sys.argv[1]
app.conf.broker_failover_strategy = "round-robin"
app.conf.task_ignore_result = True
app.conf.task_routes = None
echo.ignore_result = True
safe = {{"queue": app.conf.task_default_queue, "confirm_timeout": 2, "mandatory": True}}
def say(**words):
    print(json.dumps(words), flush=True)
def attempt(**options):
    started = time.monotonic()
    try:
        echo.apply_async(("stock",), **(safe | options))
    except Exception as error:
        say(error=type(error).__name__, text=str(error), seconds=time.monotonic() - started)
    else:
        say(error=None, seconds=time.monotonic() - started)
def pause():
    say(ready=True)
    sys.stdin.readline()
{code}
"""


class StockPublisher:
    """Stock Celery with the same settings and ``confirm_timeout`` and ``mandatory`` on each message, step by step."""

    def __init__(self, rig: Rig, code: str, nodes: tuple[str, ...]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", "from scratch import *\n" + STOCK.format(code=code), urls(rig, *nodes)],
            env=rig.environment(STOCK="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """Return what it says next, or None when it says nothing for so long."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        assert line, "the stock publisher ended"
        words: dict[str, Any] = json.loads(line)
        return words

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._lines.put(line)
        self._lines.put("")

    def go_on(self) -> None:
        """Let it leave ``pause()``."""
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()

    def end(self) -> None:
        """Kill it."""
        self._child.kill()
        self._child.wait()


@contextmanager
def stock(rig: Rig, code: str, *nodes: str) -> Iterator[StockPublisher]:
    """Run code that publishes the stock way; it may call ``attempt()``, ``pause()`` and ``say()``."""
    child = StockPublisher(rig, code, nodes or NODES)
    try:
        yield child
    finally:
        child.end()


@contextmanager
def cut_off(rig: Rig, node: str) -> Iterator[None]:
    """Separate a node from the other brokers; clients reach all of them."""
    pid = rig.stack.state(node)["Pid"]
    peers = [rig.stack.address(other) for other in NODES if other != node]
    rules = [(chain, side, peer) for peer in peers for chain, side in (("INPUT", "-s"), ("OUTPUT", "-d"))]

    def change(what: str, *, check: bool) -> None:
        for chain, side, peer in rules:
            command = ("nsenter", "-t", str(pid), "-n", "iptables", what, chain, side, peer, "-j", "DROP")
            rig.stack.run(*command, check=check)

    try:
        change("-A", check=True)
        yield
    finally:
        change("-D", check=False)  # of what an error has kept from being added
        whole(rig)


def whole(rig: Rig, deadline: float = 240) -> None:
    """Wait until all nodes run and every member of the scratch queue is online."""

    def complete() -> bool:
        row = rig.stack.queue(rig.queue, "online", "leader")
        return len(row["online"]) == len(NODES) and len(rig.stack.rabbitmqctl("cluster_status")["running_nodes"]) == 3

    wait_until(complete, "the cluster is whole", deadline)


def leader(rig: Rig) -> str:
    """Return the service name of the node that leads the scratch queue."""
    return str(rig.stack.queue(rig.queue, "leader")["leader"]).removeprefix("rabbit@")


def stored(rig: Rig) -> list[str]:
    """Take every message out of the scratch queue and return their task ids, those of copies too."""
    found: list[str] = []
    with Connection(urls(rig, NODES[0])) as connection:
        channel = connection.channel()

        def take(message: Any) -> None:
            found.append(message.properties["correlation_id"])
            channel.basic_ack(message.delivery_tag)

        def empty() -> bool:
            with contextlib.suppress(TimeoutError):
                while True:
                    connection.drain_events(timeout=1)
            return rig.depth() == (0, 0)

        channel.basic_consume(rig.queue, callback=take)
        wait_until(empty, "all are taken out")
    return found

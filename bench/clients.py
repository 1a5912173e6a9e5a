"""What is measured. Each client runs in a process of its own: ``python -m bench.clients NAME``.

A line on its standard input is a number of messages; the answer is an empty line when all of them are published. A line
``prepare N`` comes before, for what such a client needs and nobody measures.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.utils.url import parse_url
from redis import Redis

from bench import apps, cluster, compiled, outbox
from bench.cluster import EXCHANGE, QUEUE, ROOT
from drill.ledger import Writer
from holdfast.results.confirm import Confirmation

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.publisher import Message

WINDOW = 1000  # messages under way in the pipelined clients
CALLERS = 64
_PATIENCE = 180.0  # seconds for a message: alarms of brokers with a memory limit of 600 MB lasted up to 28 s each


def bulk(*, spread: bool = False) -> Callable[[int], None]:
    """``publish_many``; ``BENCH_BODY`` is the size of an argument in bytes.

    Args:
        spread: True takes all queues in turn, and names them in each call.
    """
    from holdfast.publisher import publish_many  # noqa: PLC0415 - the stock clients must not load the layer

    app = apps.make(layer=True)
    task = app.tasks["bench.nothing"]
    value = "x" * int(os.environ.get("BENCH_BODY", "5"))
    names = [queue.name for queue in app.conf.task_queues]

    def run(count: int) -> None:
        calls = (task.s(n, key=value) for n in range(count))
        if spread:
            calls = (call.set(queue=name) for call, name in zip(calls, cycle(names), strict=False))
        outcomes = publish_many(app, calls, window=WINDOW, deadline=_PATIENCE)
        assert sum(outcome.acknowledged for outcome in outcomes) == count  # noqa: S101 - a wrong run has no rate

    return run


class _Pipe:
    """A connection of py-amqp that sends one message again and again; it counts confirms by tag."""

    def __init__(self, url: str, model: Message) -> None:
        import amqp  # noqa: PLC0415 - as above

        at = parse_url(url)
        self._connection = amqp.Connection(
            f"{at['hostname']}:{at['port']}",
            at["userid"],
            at["password"],
            virtual_host=at["virtual_host"],
            connect_timeout=5,
        )
        self._connection.connect()
        channel: Any = self._connection.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        self._channel = channel
        self._message = amqp.Message(
            model.body,
            content_type=model.content_type,
            content_encoding=model.content_encoding,
            application_headers=model.headers,
            **model.properties,
        )
        self._waiting: dict[int, bool] = {}
        self._oldest, self._last = 1, 0

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for each in range(self._oldest, tag + 1) if multiple else (tag,):
            self._waiting.pop(each, None)
        self._oldest = tag + 1 if multiple else self._oldest

    def publish(self) -> None:
        self._last += 1
        self._waiting[self._last] = True
        self._channel.basic_publish(self._message, EXCHANGE, QUEUE, mandatory=True)

    def wait(self, most: int) -> None:
        """Wait until at most so many messages are not confirmed."""
        while len(self._waiting) > most:
            self._connection.drain_events(timeout=30)


def raw_amqp() -> Callable[[int], None]:
    """py-amqp with nothing around it: a body that is ready, mandatory, confirms counted by tag.

    ``BENCH_CONNECTIONS`` is how many connections take turns, spread over the brokers; one by default. The messages
    that are under way are divided among them.
    """
    count = int(os.environ.get("BENCH_CONNECTIONS", "1"))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    model = _model()
    urls = os.environ["BENCH_AMQP"].split(",")
    pipes = [_Pipe(urls[n % len(urls)], model) for n in range(count)]
    share = WINDOW // count

    def run(count: int) -> None:
        for pipe in islice(cycle(pipes), count):
            pipe.wait(share - 1)
            pipe.publish()
        for pipe in pipes:
            pipe.wait(0)

    return run


def compiled_c() -> Callable[[int], None]:
    """rabbitmq-c with a ready message, used in the same way, in a process of its own."""
    wire = _model().encode()
    folder = tempfile.TemporaryDirectory(dir=ROOT / "build")
    properties, body = Path(folder.name) / "properties", Path(folder.name) / "body"
    properties.write_bytes(wire.properties)
    body.write_bytes(wire.body)
    program = subprocess.Popen(
        [compiled.PROGRAM, EXCHANGE, QUEUE, str(WINDOW), properties, body],
        env=os.environ | {"BENCH_URL": os.environ["BENCH_AMQP"].partition(",")[0]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    weakref.finalize(program, folder.cleanup)

    def run(count: int) -> None:
        assert program.stdin is not None  # noqa: S101 - opened as pipes
        assert program.stdout is not None  # noqa: S101 - as above
        program.stdin.write(f"{count}\n")
        if not program.stdout.readline():
            raise SystemExit("the client in C ended; its error stands above")

    return run


def raw_pika() -> Callable[[int], None]:
    """pika's asynchronous client, the faster of the two in Python, used in the same way."""
    import pika  # type: ignore[import-untyped]  # pika has no types  # noqa: PLC0415 - as above

    model = _model()
    url = apps.make(layer=False).connection_for_write()
    parameters = pika.ConnectionParameters(
        url.hostname, url.port, url.virtual_host, pika.PlainCredentials(url.userid, url.password)
    )
    properties = pika.BasicProperties(
        content_type=model.content_type,
        content_encoding=model.content_encoding,
        headers=model.headers,
        delivery_mode=2,
        correlation_id=model.task_id,
        priority=model.properties.get("priority"),
        reply_to=model.properties.get("reply_to"),
    )
    waiting: dict[int, bool] = {}
    state: dict[str, Any] = {"oldest": 1, "last": 0, "left": 0, "ready": False}

    def fill() -> None:
        while state["left"] and len(waiting) < WINDOW:
            state["left"] -= 1
            state["last"] += 1
            waiting[state["last"]] = True
            state["channel"].basic_publish(EXCHANGE, QUEUE, model.body, properties, mandatory=True)

    def on_confirm(frame: Any) -> None:
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        for each in range(state["oldest"], tag + 1) if multiple else (tag,):
            waiting.pop(each, None)
        if multiple:
            state["oldest"] = tag + 1
        fill()
        if not waiting and not state["left"]:
            connection.ioloop.stop()

    def on_open(channel: Any) -> None:
        state["channel"] = channel
        channel.confirm_delivery(on_confirm, callback=lambda _: connection.ioloop.stop())

    connection = pika.SelectConnection(parameters, on_open_callback=lambda c: c.channel(on_open_callback=on_open))
    connection.ioloop.start()

    def run(count: int) -> None:
        state["left"] = count
        fill()
        connection.ioloop.start()

    return run


def one_by_one(*, layer: bool, confirm: bool) -> Callable[[int], None]:
    """``apply_async`` in a loop."""
    task = apps.make(layer=layer, confirm=confirm).tasks["bench.nothing"]

    def run(count: int) -> None:
        for n in range(count):
            task.apply_async((n,), {"key": "value"})

    return run


def many_callers(*, layer: bool, confirm: bool) -> Callable[[int], None]:
    """``apply_async`` from many threads; the stock pool gets a connection for each of them."""
    task = apps.make(layer=layer, confirm=confirm, broker_pool_limit=CALLERS).tasks["bench.nothing"]

    return lambda count: _from_threads(lambda n: task.apply_async((n,), {"key": "value"}), count)


def _from_threads(call: Callable[[int], object], count: int, callers: int = CALLERS) -> None:
    def calls(first: int) -> None:
        for n in range(first, count, callers):
            call(n)

    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(calls, first) for first in range(callers)]:
            done.result()  # an error ends the client: a wrong run has no rate


def drilled() -> Callable[[int], None]:
    """The same with the drill's ledger: an attempt before each call and its outcome after it."""
    task = apps.make(layer=True, confirm=True, broker_pool_limit=CALLERS).tasks["bench.nothing"]
    folder = tempfile.TemporaryDirectory(dir=ROOT / "build")
    book = Writer(Path(folder.name) / "bench.ledger", "bench", "bench")
    weakref.finalize(book, folder.cleanup)

    def call(n: int) -> None:
        task_id = str(uuid4())
        book.append("attempt", id=task_id, task="nothing", path="single", poison=False)
        task.apply_async((n,), {"key": "value"}, task_id=task_id)
        book.append("outcome", id=task_id, result="acknowledged")

    return lambda count: _from_threads(call, count)


def results(*, layer: bool) -> Callable[[int], None]:
    """Storing a result, one after the other, as one process of a worker does."""
    app = apps.make(layer=layer)

    def run(count: int) -> None:
        for _ in range(count):
            app.backend.store_result(str(uuid4()), {"answer": 42}, "SUCCESS")

    return run


def waits_alone() -> Callable[[int], None]:
    """redis-py with one connection, a ready value and the same wait for disks: the floor of storing a result."""
    client = Redis.from_url(cluster.environment()["BENCH_REDIS"])
    replicas = client.info("replication")["connected_slaves"]
    needed = Confirmation(replicas)
    value = b"x" * 200  # bytes, about what a small result has

    def run(count: int) -> None:
        for _ in range(count):
            with client.pipeline(transaction=False) as pipe:
                pipe.execute_command("SET", f"bench-{uuid4()}", value, "EX", 60)
                needed.ask(pipe, 1000)
                assert not needed.missing(pipe.execute())  # noqa: S101 - as above

    return run


def dramatiq() -> Callable[[int], None]:
    """dramatiq from eight threads: it waits for the confirm of each message."""
    from bench.dramatiq_tasks import task  # noqa: PLC0415 - as above

    return lambda count: _from_threads(lambda n: task.send(n, key="value"), count, 8)


def taskiq() -> Callable[[int], None]:
    """taskiq with as many messages under way as ``publish_many`` has."""
    import uvloop  # noqa: PLC0415 - as above

    from bench.taskiq_tasks import broker, task  # noqa: PLC0415 - as above

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    runner.run(broker.startup())

    async def publish(count: int) -> None:
        for begin in range(0, count, WINDOW):
            await asyncio.gather(*(task.kiq(n, key="value") for n in range(begin, min(count, begin + WINDOW))))

    return lambda count: runner.run(publish(count))


def _model() -> Message:
    """Return the message that the layer would send, so that the raw clients carry the same bytes."""
    from holdfast.publisher.durable_amqp import collecting  # noqa: PLC0415 - as above

    with collecting() as messages:
        apps.make(layer=True).tasks["bench.nothing"].apply_async((1,), {"key": "value"})
    return messages[0]


CLIENTS: dict[str, Callable[[], Callable[[int], None]]] = {
    "publish_many": bulk,
    "publish_many, queues in turn": lambda: bulk(spread=True),
    "raw py-amqp": raw_amqp,
    "rabbitmq-c": compiled_c,
    "raw pika": raw_pika,
    "stock, confirmed, one by one": lambda: one_by_one(layer=False, confirm=True),
    "layer, one by one": lambda: one_by_one(layer=True, confirm=True),
    "stock, unconfirmed, one by one": lambda: one_by_one(layer=False, confirm=False),
    "stock, unconfirmed, 64 callers": lambda: many_callers(layer=False, confirm=False),
    "stock, confirmed, 64 callers": lambda: many_callers(layer=False, confirm=True),
    "layer, 64 callers": lambda: many_callers(layer=True, confirm=True),
    "layer, 64 callers, with the drill's ledger": drilled,
    "result on all disks": lambda: results(layer=True),
    "result, stock": lambda: results(layer=False),
    "redis-py, the same wait": waits_alone,
    "enqueue, a transaction for each": outbox.enqueued,
    "outbox, one relay": outbox.Relayed,
    "dramatiq": dramatiq,
    "taskiq": taskiq,
}


def main() -> None:
    """Serve one client."""
    run = CLIENTS[sys.argv[1]]()
    for line in sys.stdin:
        word, _, count = line.rpartition(" ")
        if not word:
            run(int(count))
        elif prepare := getattr(run, "prepare", None):
            prepare(int(count))
        print(flush=True)


if __name__ == "__main__":
    main()

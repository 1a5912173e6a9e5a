"""What ``holdfast migrate-broker`` finds, claims and leaves alone on a real Redis that kombu has written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from redis import Redis
from redis.exceptions import LockError

from holdfast.migrate import old as module
from holdfast.migrate.message import Stored
from holdfast.migrate.old import OldBroker

from ..servers import answers, container, free_ports, image
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

OPTIONS = {"global_keyprefix": "shop[1]:", "visibility_timeout": 60}  # a pattern, if it is not escaped


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A Redis of the tests' own."""
    [port] = free_ports(1)
    server = ("redis-server", "--protected-mode", "no")
    with container("--publish", f"127.0.0.1:{port}:6379", image("redis"), *server), Redis(port=port) as client:
        wait_until(lambda: answers(client), "Redis answers", 60)
        yield port


@pytest.fixture
def app(port: int) -> Iterator[Celery]:
    """Stock Celery with a topic exchange, whose queues are empty."""
    app = Celery("old", broker=f"redis://127.0.0.1:{port}/0", set_as_current=False)
    app.conf.broker_transport_options = OPTIONS
    app.conf.task_queues = [Queue("mail", Exchange("mails", "topic"), "mail.#"), Queue("celery")]
    with Redis(port=port) as client:
        for key in client.scan_iter():
            if b"_kombu.binding" not in key:  # kombu remembers what it has bound, and would not do it again
                client.delete(key)
        yield app


@pytest.fixture
def old(port: int, app: Celery) -> Iterator[OldBroker]:  # noqa: ARG001 - the queues are empty
    """What the command sees of it."""
    broker = OldBroker(f"redis://127.0.0.1:{port}/0", OPTIONS)
    yield broker
    broker.close()


def test_tasks_are_found_by_priority_and_nothing_else(port: int, app: Celery, old: OldBroker) -> None:
    app.send_task("pay", queue="mail", routing_key="mail.fast", priority=9)
    app.send_task("pay", queue="celery", priority=0)
    app.send_task("pay", queue="celery", priority=4)
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel._put("answers", channel.prepare_message("{}") | {"headers": {}})  # a result of rpc://
        channel._queue_bind("reply.celery.pidbox", "x", "", "x.reply.celery.pidbox")
        channel._put("x.reply.celery.pidbox", channel.prepare_message("{}"))
    with Redis(port=port) as client:
        task: Any = client.lindex("shop[1]:celery", 0)
        client.lpush("shop[1]:loose", task)  # without a binding
        client.lpush("shop[1]:cart", "apples")
        client.lpush("shop1:celery", "another application's")
    found = [(spot.queue, spot.priority, spot.length) for spot in old.waiting()]
    assert found == [("celery", 0, 1), ("loose", 0, 1), ("celery", 3, 1), ("mail", 9, 1)]


def test_what_is_claimed_survives_the_process_and_leaves_when_it_is_settled(
    port: int, app: Celery, old: OldBroker
) -> None:
    ids = [app.send_task("pay", queue="celery").id for _ in range(3)]
    [spot] = old.waiting()
    assert len(old.claim(spot, 2)) == 2
    other = OldBroker(f"redis://127.0.0.1:{port}/0", OPTIONS)
    held = other.held()
    assert [Stored.read(one.raw, held=False).task_id for one in held] == ids[:2]
    assert {one.queue for one in held} == {"celery"}
    other.settle(held[:1])
    assert old.held() == held[1:]
    assert [spot.length for spot in old.waiting()] == [1]
    other.close()


def test_what_a_worker_holds_is_taken_once_and_not_after_its_acknowledgement(app: Celery, old: OldBroker) -> None:
    ids = [app.send_task("pay", queue="mail", routing_key="mail.fast").id for _ in range(2)]
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        first, second = channel.basic_get("mail"), channel.basic_get("mail")
        entries = dict(old.unacked())
        assert entries.keys() == {first.delivery_tag, second.delivery_tag}
        stored = Stored.read(entries[first.delivery_tag], held=True)
        assert (stored.task_id, stored.queues(old.bindings())) == (ids[0], ["mail"])
        second.ack()
        taken = old.take([first.delivery_tag, second.delivery_tag, first.delivery_tag])
        assert [one.raw for one in taken] == [entries[first.delivery_tag]]
        assert dict(old.unacked()) == {}
        channel.close()  # as a worker that stops: it gives back what is still its own
    assert old.waiting() == []
    assert old.held() == taken


def test_only_those_who_wait_for_tasks_count_as_workers(port: int, app: Celery, old: OldBroker) -> None:
    app.send_task("pay", queue="celery")
    assert old.workers() == []
    with app.connection_for_write() as connection:
        queue: Any = app.amqp.queues["celery"]  # the stubs know no queue but its name
        consumer: Any = connection.SimpleQueue(queue)
        consumer.get(timeout=60)
        assert len(old.workers() or ()) == 1
    with Redis(port=port) as client:
        client.execute_command("ACL", "SETUSER", "small", "on", ">x", "~*", "+@all", "-client|list")
    small = OldBroker(f"redis://small:x@127.0.0.1:{port}/0", OPTIONS)
    assert small.workers() is None
    small.close()


def test_two_runs_at_the_same_time_are_refused(
    port: int, app: Celery, old: OldBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = OldBroker(f"redis://127.0.0.1:{port}/0", OPTIONS)
    app.send_task("pay", queue="celery")
    with old.alone() as lock:
        with monkeypatch.context() as patch:
            patch.setattr(module, "LEASE", 1.0)  # the other one waits for little longer; this one has its own for 30 s
            with pytest.raises(LockError), other.alone():
                pass
        assert lock.owned()
    with other.alone():
        assert len(other.waiting()) == 1
    other.close()

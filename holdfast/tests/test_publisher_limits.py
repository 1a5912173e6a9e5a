"""Deadlines, back-off and errors, against peers that refuse, stay silent or do not exist."""

from __future__ import annotations

import logging
import pickle
import socket
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from holdfast import publisher
from holdfast.publisher import (
    Message,
    Nacked,
    NotAcknowledged,
    Policy,
    Publisher,
    Refused,
    TimedOut,
    Unreachable,
    Unroutable,
    install,
    iter_publish,
    publish_many,
    publisher_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = Policy(deadline=1.0, attempt=0.5, connect=0.3, backoff=0.01)
BUSY = 15  # seconds that a busy machine may take on top; who does not keep to the deadline takes longer


def message(body: bytes = b"[[], {}, {}]") -> Message:
    return Message("tasks", "default", body, "application/json", "utf-8", {"id": "t1"}, {"correlation_id": "t1"})


@contextmanager
def silent_peer() -> Iterator[int]:
    """A port that accepts connections and never says a word, like a stopped node."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def connection(*ports: int) -> Connection:
    return Connection(";".join(f"amqp://app:secret@127.0.0.1:{port}//" for port in ports), connect_timeout=60)


def make_app(port: int, **changes: Any) -> Celery:
    app = Celery("limits", broker=f"amqp://app:secret@127.0.0.1:{port}//", set_as_current=False)
    app.conf.update(holdfast_publish_deadline=1.0, holdfast_publish_connect=0.3, **changes)
    install(app)

    @app.task(name="add", shared=False)
    def add(x: int) -> None:
        pass

    return app


def test_silent_nodes_cost_no_more_than_the_deadline() -> None:
    with silent_peer() as one, silent_peer() as two:
        started = monotonic()
        with pytest.raises(Unreachable, match="cannot be used") as caught:
            Publisher(connection(one, two), QUICK).publish(message())
        assert monotonic() - started < QUICK.deadline + BUSY
    assert caught.value.task_id == "t1"
    assert not caught.value.maybe_published


def test_many_threads_on_a_silent_node_all_end_at_their_deadline() -> None:
    with silent_peer() as port:
        shared = Publisher(connection(port), QUICK)
        ends: list[float] = []

        def publish() -> None:
            with pytest.raises((Unreachable, TimedOut)):
                shared.publish(message())
            ends.append(monotonic())

        started = monotonic()
        threads = [threading.Thread(target=publish) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ends) == 40
    assert max(ends) - started < QUICK.deadline + BUSY, "one after the other they take forty deadlines"


def test_the_error_names_the_node_without_its_password() -> None:
    with pytest.raises(Unreachable) as caught:
        Publisher(connection(closed_port()), QUICK).publish(message())
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_fallback_gets_a_message_that_no_broker_took() -> None:
    stored: list[Message] = []
    assert Publisher(connection(closed_port()), QUICK, stored.append).publish(message()) is False
    assert stored == [message()]


def test_a_fallback_that_fails_leaves_the_error() -> None:
    def broken(_: Message) -> None:
        raise OSError("disk full")

    with pytest.raises(Unreachable):
        Publisher(connection(closed_port()), QUICK, broken).publish(message())


def test_a_logging_handler_that_publishes_is_not_called_for_its_own_failure() -> None:
    def broken(_: Message) -> None:
        raise OSError("disk full")

    publisher = Publisher(connection(closed_port()), Policy(deadline=0.1, backoff=0.01), broken)
    records: list[logging.LogRecord] = []

    class Publishing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)
            with pytest.raises(Unreachable):
                publisher.publish(message())

    handler = Publishing()
    logging.getLogger("holdfast").addHandler(handler)
    try:
        for _ in range(2):
            with pytest.raises(Unreachable):
                publisher.publish(message())
    finally:
        logging.getLogger("holdfast").removeHandler(handler)
    assert [record.filename for record in records] == ["attempt.py"] * 2


def test_what_no_broker_will_ever_take_is_not_stored() -> None:
    stored: list[Message] = []
    policy = Policy(deadline=1.0, max_bytes=10)
    with pytest.raises(Refused, match="11 bytes, 10 are allowed"):
        Publisher(connection(closed_port()), policy, stored.append).publish(message(b"x" * 11))
    assert stored == []


def test_bulk_outcomes_come_within_the_deadline_and_are_each_ones_own() -> None:
    policy = Policy(deadline=1.0, attempt=0.5, connect=0.3, max_bytes=10)
    stored: list[Message] = []
    bulk = Publisher(connection(closed_port()), policy, stored.append)
    started = monotonic()
    outcomes = list(bulk.publish_all(message(b"x" * size) for size in (5, 11, 5)))
    assert monotonic() - started < policy.deadline + BUSY
    by_index = {outcome.index: outcome for outcome in outcomes}
    assert [by_index[n].stored for n in range(3)] == [True, False, True]
    assert isinstance(by_index[1].error, Refused)
    assert not any(outcome.acknowledged for outcome in outcomes)
    assert len(stored) == 2


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 0; allowed is 1 or more"):
        next(Publisher(connection(1), QUICK).publish_all([], window=0))


def test_delay_of_an_installed_app_raises_what_stock_handlers_catch() -> None:
    app = make_app(closed_port())
    with pytest.raises(OperationalError) as caught:
        app.tasks["add"].apply_async((1,), task_id="mine")
    assert isinstance(caught.value, Unreachable)
    assert caught.value.task_id == "mine"


def test_confirm_timeout_of_a_call_is_its_deadline() -> None:
    task: Any = make_app(closed_port()).tasks["add"]  # the stubs know few of the options
    started = monotonic()
    with pytest.raises(Unreachable):
        task.apply_async((1,), confirm_timeout=0.2)
    assert monotonic() - started < 0.6


def test_the_fallback_can_be_named_in_the_settings() -> None:
    app = make_app(closed_port(), holdfast_publish_fallback=f"{__name__}:remember")
    REMEMBERED.clear()
    result = app.tasks["add"].delay(1)
    assert [m.task_id for m in REMEMBERED] == [result.id]


REMEMBERED: list[Message] = []


def remember(stored: Message) -> None:
    REMEMBERED.append(stored)


def test_a_full_pool_does_not_hold_up_tasks() -> None:
    """Ten threads stuck in something else used to block the eleventh publish for ever."""
    app = make_app(closed_port(), broker_pool_limit=1, broker_pool_acquire_timeout=None)
    with app.producer_pool.acquire(block=True) as producer:
        assert producer.auto_declare  # the stock producer, and with it the only slot, is taken
        with pytest.raises(Unreachable):
            app.tasks["add"].delay(1)


def test_a_dead_result_store_does_not_hold_up_tasks() -> None:
    app = make_app(closed_port(), result_backend=f"redis://127.0.0.1:{closed_port()}/0")
    started = monotonic()
    with pytest.raises(Unreachable):
        app.tasks["add"].delay(1)
    assert monotonic() - started < 10, "stock Celery tries the result store for 19 s"


def test_another_transport_publishes_the_stock_way() -> None:
    app = Celery("memory", broker="memory://", set_as_current=False)
    install(app)

    @app.task(name="add", shared=False)
    def add(x: int) -> None:
        pass

    add.delay(1)
    with app.connection_for_read() as conn, conn.SimpleQueue("celery") as queue:
        assert queue.get(timeout=30).headers["task"] == "add"
    with pytest.raises(TypeError, match="only AMQP brokers"):
        publish_many(app, [add.s(1)])


def test_an_app_without_install_is_told_so() -> None:
    app = Celery("plain", broker="memory://", set_as_current=False)
    with pytest.raises(TypeError, match=r"call holdfast\.install"):
        publisher_of(app)
    with pytest.raises(TypeError, match=r"call holdfast\.install"):
        list(iter_publish(app, []))


def test_install_keeps_the_queues_that_were_selected() -> None:
    app = Celery("select", broker="memory://", set_as_current=False)
    app.select_queues(["only"])
    install(app)
    assert list(app.amqp.queues.consume_from) == ["only"]


@pytest.mark.parametrize("value", [0, -1, "5"])
def test_a_limit_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"holdfast_publish_deadline is .*; set a number above 0"):
        Policy.from_settings({"holdfast_publish_deadline": value})


def test_pauses_grow_to_their_limit() -> None:
    policy = Policy(backoff=0.1, backoff_max=0.5)
    assert 0.05 <= policy.pause(0) <= 0.1
    assert 0.25 <= policy.pause(20) <= 0.5


@pytest.mark.parametrize("kind", [Nacked, Unroutable, TimedOut])
def test_errors_survive_pickling_and_say_what_is_known(kind: type[NotAcknowledged]) -> None:
    error = kind("why", task_id="t1", maybe_published=True)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert type(copy) is kind
    assert (copy.task_id, copy.maybe_published, str(copy)) == ("t1", True, str(error))
    assert "task t1 was not acknowledged: why (the broker may have it all the same)" in str(error)
    assert kind("why").about("t2", maybe_published=True).maybe_published


def test_every_kind_of_error_is_public() -> None:
    kinds = {
        name
        for name in publisher.__all__
        if isinstance(getattr(publisher, name), type) and issubclass(getattr(publisher, name), NotAcknowledged)
    }
    assert kinds >= {"Nacked", "Unroutable", "TimedOut", "Blocked", "Unreachable", "Refused", "Disconnected"}

"""A single publish by template sends what stock Celery sends; what publishes in its own way is built by Celery."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from threading import Barrier, Thread
from time import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, signals
from celery._state import _task_stack
from celery.app import amqp as celerys_amqp
from celery.utils.saferepr import saferepr
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Exchange, Queue
from test_publisher_template import (
    OURS,
    PLAIN,
    STOCK,
    expires,
    make_app,
    own_shadow_name,
    stock,
    values,
    wrapped_message,
    wrapped_sender,
)

from holdfast.app import install
from holdfast.outbox.workflow import record
from holdfast.published import PUBLISHED_AT
from holdfast.publisher import Unroutable, plain
from holdfast.publisher.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.canvas import Signature

    from holdfast.publisher.message import Wire


class Book:
    """Stands in for the publisher of an app: keeps what it would send."""

    def __init__(self, app: Celery) -> None:
        self.topology: dict[object, object] = {}
        self.error: Exception | None = None
        self.sent: list[Message] = []
        vars(app.amqp)["publisher"] = lambda _connection=None: self

    def publish(self, message: Message, _deadline: float | None) -> bool:
        """Take a message that Celery built."""
        return self.carry(message.encode())

    def carry(self, wire: Wire) -> bool:
        """Take a message."""
        if self.error is not None:
            raise self.error
        self.sent.append(Message.decode(wire))
        return True


@pytest.fixture
def app() -> Celery:
    app = make_app()
    install(app)
    return app


@pytest.fixture
def book(app: Celery) -> Book:
    return Book(app)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Celery has printed for messages that it built: the positional arguments of each."""
    found: list[str] = []

    def note(value: Any, *limits: Any, **options: Any) -> str:
        text = str(saferepr(value, *limits, **options))
        if isinstance(value, tuple | list):
            found.append(text)
        return text

    monkeypatch.setattr(celerys_amqp, "saferepr", note)
    return found


def without_time(message: Message) -> Message:
    """Return a message without what only the layer notes."""
    assert abs(time() - float(message.headers.pop(PUBLISHED_AT))) < 60
    return message


def call(signature: Signature[Any]) -> Any:
    return signature.type.apply_async(signature.args, signature.kwargs, **signature.options)


@settings(max_examples=50, deadline=None)
@given(args=st.lists(values, max_size=4), kwargs=st.dictionaries(st.text(max_size=8), values, max_size=3))
def test_the_third_message_of_a_kind_is_that_of_stock_celery(args: list[Any], kwargs: dict[str, Any]) -> None:
    book = Book(OURS)
    try:
        for n in range(2):
            call(OURS.tasks["add"].s(n))
        signature = OURS.tasks["add"].s(*args, **kwargs).set(task_id="b" * 36)
        call(signature)
    finally:
        vars(OURS.amqp).pop("publisher")
    assert without_time(book.sent[2]).encode() == stock(signature, STOCK).encode()


@pytest.mark.parametrize("options", PLAIN, ids=str)
def test_plain_options_are_filled_in_from_the_third_call_on(
    options: dict[str, Any], app: Celery, book: Book, built: list[str]
) -> None:
    signatures = [app.tasks["pair"].s(n).set(**({"task_id": f"id {n}"} | options)) for n in range(4)]
    results = [call(signature) for signature in signatures]
    assert built == ["(0,)", "(1,)"]
    assert [result.id for result in results] == [message.task_id for message in book.sent]
    assert {type(result) for result in results} == {type(app.AsyncResult("x"))}
    assert [result.ignored for result in results] == [options.get("ignore_result", True)] * 4
    for signature, message in zip(signatures, book.sent, strict=True):
        expected = stock(signature, STOCK)
        expected.properties["reply_to"] = app.thread_oid
        assert without_time(message).encode() == expected.encode()


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"tenant": "t1"}},
        {"compression": "zlib"},
        {"shadow": "other name"},
        {"expires": datetime(2030, 1, 1, tzinfo=timezone.utc)},
        {"countdown": 5},
        {"group_id": "g", "group_index": 3},
        {"queue": Queue("critical", Exchange("tasks", type="topic", no_declare=True), no_declare=True)},
        {"argsrepr": "secret"},
        {"stamped_headers": ["a"], "a": 1},
        {"add_to_parent": False},
        {"retry": True},
    ],
    ids=str,
)
def test_other_options_are_left_to_celery(options: dict[str, Any], app: Celery, book: Book, built: list[str]) -> None:
    for n in range(3):
        app.tasks["pair"].apply_async((n,), **options)
    assert len(built) == (0 if "argsrepr" in options else 3)
    assert len(book.sent) == 3


def test_what_the_parent_passes_on_is_left_to_celery(app: Celery, book: Book, built: list[str]) -> None:
    task: Any = app.tasks["add"]
    task.push_request(id="p", root_id="r", called_directly=False, args=[], kwargs={})
    _task_stack.push(task)
    try:
        for n in range(3):
            app.tasks["pair"].delay(n)
    finally:
        _task_stack.pop()
        task.pop_request()
    assert [message.headers["root_id"] for message in book.sent] == ["r"] * 3
    assert len(built) == 3


def test_an_outbox_records_what_it_is_given(app: Celery, book: Book) -> None:
    for n in range(3):
        app.tasks["pair"].delay(n)
    recorded = record(app.tasks["pair"].s(9))
    assert len(book.sent) == 3
    assert len(recorded.messages) == 1


def test_threads_share_a_template_and_keep_their_own_address_for_replies(
    app: Celery, book: Book, built: list[str]
) -> None:
    task = app.tasks["pair"]
    for n in range(2):
        task.delay(n)
    alive = Barrier(2)  # the name of a thread that has ended may go to the next one, and with it its address

    def call(n: int) -> None:
        task.delay(n)
        alive.wait(30)

    threads = [Thread(target=call, args=(n,)) for n in range(2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["(0,)", "(1,)"]
    assert len({message.properties["reply_to"] for message in book.sent}) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_forked_child_names_itself_as_the_origin(app: Celery, book: Book) -> None:
    for n in range(3):
        app.tasks["pair"].delay(n)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        app.tasks["pair"].delay(4)
        os.write(writer, f"{os.getpid()} {book.sent[-1].headers['origin']}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1000).decode().startswith(f"{child} gen{child}@")


def a_receiver_of_a_signal(_app: Celery) -> None:
    signals.before_task_publish.connect(nothing_of_a_signal)


def nothing_of_a_signal(**_: Any) -> None:
    """Receive."""


def compressed(app: Celery) -> None:
    app.conf.update(task_compression="zlib")


def other_message(app: Celery) -> None:
    wrapped_message(app)


def other_sender(app: Celery) -> None:
    wrapped_sender(app)


def own_router(app: Celery) -> None:
    app.conf.task_routes = (lambda *_args, **_options: {"queue": "critical"},)
    app.amqp.flush_routes()
    vars(app.amqp).pop("router", None)


@pytest.mark.parametrize("change", [a_receiver_of_a_signal, compressed, other_message, other_sender, own_router])
def test_what_changes_later_is_noticed(
    change: Callable[[Celery], None], app: Celery, book: Book, built: list[str]
) -> None:
    for n in range(4):
        app.tasks["pair"].delay(n)
    assert built == ["(0,)", "(1,)"]
    try:
        change(app)
        for n in range(4, 8):
            app.tasks["pair"].delay(n)
    finally:
        signals.before_task_publish.disconnect(nothing_of_a_signal)
    printed = [] if change is other_message else ["(4,)", "(5,)", "(6,)", "(7,)"]  # that one prints nothing
    assert built[2:] == printed
    assert [message.headers["argsrepr"] for message in book.sent[4:]] == (printed or ["secret"] * 4)


def test_a_setting_that_changes_is_in_the_next_message(app: Celery, book: Book, built: list[str]) -> None:
    for n in range(3):
        app.tasks["add"].delay(n)
    app.conf.task_default_queue = "critical"
    app.conf.update(task_repr_maxlevels=1)
    for n in range(3, 7):
        app.tasks["add"].delay([n])
    assert built == ["(0,)", "(1,)", "([...],)", "([...],)"]
    assert [message.headers["argsrepr"] for message in book.sent[3:]] == ["([...],)"] * 4


@pytest.mark.parametrize("change", [expires, own_shadow_name])
def test_a_task_that_publishes_in_its_own_way_is_left_to_celery(
    change: Any, app: Celery, book: Book, built: list[str]
) -> None:
    task = change(app)
    for n in range(3):
        task.delay(n)
    assert len(built) == len(book.sent) == 3


def test_an_app_with_an_own_send_task_is_left_to_celery(built: list[str]) -> None:
    class Tenants(Celery):
        def send_task(self, *args: Any, **options: Any) -> Any:
            return super().send_task(*args, **options | {"headers": {"tenant": "t1"}})

    app = make_app(Tenants)
    install(app)
    book = Book(app)
    for n in range(3):
        app.tasks["pair"].delay(n)
    assert len(built) == 3
    assert {message.headers["tenant"] for message in book.sent} == {"t1"}


def test_an_instrumentation_around_send_task_sees_every_call(app: Celery, book: Book) -> None:
    seen: list[object] = []
    send = app.send_task

    def around(*args: Any, **options: Any) -> Any:
        seen.append(args)
        return send(*args, **options)

    vars(app)["send_task"] = around
    for n in range(4):
        app.tasks["pair"].delay(n)
    assert len(seen) == len(book.sent) == 4


def test_a_result_store_that_listens_hears_of_every_task(app: Celery, book: Book) -> None:
    heard: list[str] = []
    vars(app.backend)["on_task_call"] = lambda _producer, task_id: heard.append(task_id)
    results = [app.tasks["add"].delay(n) for n in range(4)]
    assert heard == [result.id for result in results] == [message.task_id for message in book.sent]


def test_a_publish_that_fails_raises_from_the_first_call_on(app: Celery, book: Book) -> None:
    book.error = Unroutable("nothing is bound")
    for n in range(4):
        with pytest.raises(Unroutable, match="nothing is bound"):
            app.tasks["pair"].delay(n)
    assert not book.sent


def test_arguments_that_cannot_be_encoded_raise_what_celery_raises(app: Celery, book: Book) -> None:
    def attempt() -> str:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is compared
            app.tasks["add"].delay(object())
        return f"{caught.type} {caught.value}".split(" at 0x")[0]

    first = attempt()
    for n in range(3):
        app.tasks["add"].delay(n)
    assert attempt() == first
    assert len(book.sent) == 3


def test_kinds_without_end_do_not_fill_the_memory(
    app: Celery, book: Book, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "KINDS", 4)
    calls = plain.PlainCalls(app, Celery.send_task.__get__(app))
    for n in range(20):
        calls.publish("pair", ((n,), {}), {"task_type": app.tasks["pair"], "time_limit": 1000 + n})
        assert len(calls._known.models) + len(calls._known.proven) <= 5
    assert len(built) == len(book.sent) == 20


@pytest.mark.parametrize("at", range(3))
def test_a_call_in_the_middle_of_another_one_is_published_too(
    at: int, app: Celery, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[Any] = []
    interrupting = iter([True])  # once, as one signal does

    def interrupted(value: Any, *limits: Any, **options: Any) -> str:
        if isinstance(value, tuple | list) and outer == at and next(interrupting, False):
            inside.append(app.tasks["add"].delay("inside"))
            assert book.sent[-1].task_id == inside[0].id, "nobody has heard of success before it is there"
        return str(saferepr(value, *limits, **options))

    monkeypatch.setattr(celerys_amqp, "saferepr", interrupted)
    monkeypatch.setattr("holdfast.publisher.template.plain_repr", interrupted)
    results = []
    for outer in range(3):
        results.append(app.tasks["pair"].delay(outer))  # noqa: PERF401 - the handler looks at the number
    assert len(inside) == 1
    assert sorted(message.task_id or "" for message in book.sent) == sorted(one.id for one in [*results, *inside])


def test_a_queue_that_takes_the_place_of_another_one_gets_the_tasks(app: Celery, book: Book) -> None:
    for _ in range(3):
        app.tasks["pair"].apply_async((1,), queue="critical")
    app.amqp.queues.pop("critical")
    app.amqp.queues.add(Queue("critical", Exchange("others", type="topic"), routing_key="elsewhere"))
    app.tasks["pair"].apply_async((1,), queue="critical")
    assert [message.exchange for message in book.sent] == ["tasks", "tasks", "tasks", "others"]
    assert book.sent[-1].routing_key == "elsewhere"

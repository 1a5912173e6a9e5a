"""A message made by template is the one that stock Celery sends, field by field; what cannot be is built by Celery."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import wraps
from time import time
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, Task, chain, chord, group, signals
from celery._state import _task_stack
from celery.app.amqp import AMQP
from celery.canvas import Signature
from celery.utils.saferepr import saferepr
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Exchange, Producer, Queue
from kombu.exceptions import EncodeError
from kombu.serialization import register_json, registry

from holdfast.app import install
from holdfast.published import PUBLISHED_AT
from holdfast.publisher.many import _wires, wires_of
from holdfast.publisher.message import Message, Wire
from holdfast.publisher.template import Templates, plain_repr

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def make_app(kind: type[Celery] = Celery, *, task_cls: Any = None, amqp: Any = None, **changes: Any) -> Celery:
    app = kind(
        "publishers",
        broker="amqp://nobody@127.0.0.1:1//",
        backend="cache+memory://",
        set_as_current=False,
        task_cls=task_cls,
        amqp=amqp,
    )
    app.conf.update(
        task_queues=[
            Queue(name, Exchange("tasks", type="topic", no_declare=True), routing_key=name, no_declare=True)
            for name in ("default", "critical")
        ],
        task_default_queue="default",
        task_default_exchange="tasks",
        task_default_exchange_type="topic",
        task_default_routing_key="default",
        task_time_limit=None,  # messages carry it, and the layer's own default would be in those of one application
        **changes,
    )

    @app.task(name="add", shared=False)
    def add(*args: Any, **kwargs: Any) -> None:
        pass

    @app.task(name="pair", ignore_result=True, shared=False)
    def pair(x: int, y: int = 2) -> None:
        pass

    return app


class _Capture(Producer):
    """A stock kombu producer that keeps what it would put on the wire."""

    def _publish(self, body: Any, *sent: Any) -> None:  # as kombu calls it
        priority, content_type, content_encoding, headers, properties, routing_key, _, _, exchange = sent[:9]
        raw = body if isinstance(body, bytes) else body.encode(content_encoding)
        self.found = Message(
            exchange, routing_key, raw, content_type, content_encoding, headers, {"priority": priority, **properties}
        )


def stock(signature: Signature[Any], app: Celery) -> Message:
    """What Celery without this package sends for a signature."""
    capture = _Capture(app.connection_for_write(), auto_declare=False)
    task: Any = app.tasks[str(signature.task)]  # the stubs know few of the options
    task.apply_async(signature.args, signature.kwargs, producer=capture, reply_to=OURS.thread_oid, **signature.options)
    return capture.found


def ours(app: Celery, *signatures: Signature[Any]) -> list[Message]:
    """What publish_many sends for signatures, without the time of publishing, which only the layer notes."""
    begin = time()
    found: list[Any] = list(_wires(app, signatures))
    messages = [Message.decode(wire) for wire in found]
    for message in messages:
        assert begin - 1e-5 <= float(message.headers.pop(PUBLISHED_AT)) <= time()
    return messages


STOCK = make_app()
OURS = make_app()
install(OURS)
PLAIN: list[dict[str, Any]] = [  # options that a template can carry
    {},
    {"queue": "critical"},
    {"priority": 7},
    {"exchange": "tasks", "routing_key": "critical"},
    {"time_limit": 10, "soft_time_limit": 5},
    {"ignore_result": True},
    {"serializer": "yaml"},
    {"delivery_mode": 1},
    {"task_id": "an id of another length"},
]


@settings(max_examples=200)
@given(args=st.lists(values, max_size=4), kwargs=st.dictionaries(st.text(max_size=8), values, max_size=3))
def test_a_template_gives_the_message_of_stock_celery(args: list[Any], kwargs: dict[str, Any]) -> None:
    first, second = (OURS.tasks["add"].s(n).set(task_id=str(n) * 36) for n in range(2))
    signature = OURS.tasks["add"].s(*args, **kwargs).set(task_id="b" * 36)
    *_, message = ours(OURS, first, second, signature)
    assert message.encode() == stock(signature, STOCK).encode()


@pytest.mark.parametrize(
    "options",
    [
        *PLAIN,
        {"headers": {"tenant": "t1"}},
        {"compression": "zlib"},
        {"shadow": "other name"},
        {"expires": datetime(2030, 1, 1, tzinfo=timezone.utc)},
        {"link": []},
        {"group_id": "g", "group_index": 3},
    ],
    ids=str,
)
def test_options_give_the_message_of_stock_celery(options: dict[str, Any]) -> None:
    pairs = [OURS.tasks["pair"].s(n).set(**({"task_id": f"id {n}"} | options)) for n in range(4)]
    expected = [stock(signature, STOCK) for signature in pairs]
    found = ours(OURS, *pairs)
    for message, wanted in zip(found, expected, strict=True):
        if "expires" in options:  # the layer leaves the end of a task to the worker
            assert "expiration" not in message.properties
            wanted.properties.pop("expiration")
        assert message.encode() == wanted.encode()


def built_by_celery(app: Celery, *signatures: Signature[Any]) -> list[int]:
    """Publish signatures and return the places of those whose message Celery built."""
    found: list[int] = []
    templates = Templates(app)
    for place, signature in enumerate(signatures):
        key = templates.key(signature)
        if key is None or templates.fill(key, signature) is None:
            found.append(place)
        list(wires_of(app, templates, signature))
    return found


def test_under_the_documented_install_celery_builds_the_first_two_messages_of_a_kind() -> None:
    pair = OURS.tasks["pair"]
    assert built_by_celery(OURS, *(pair.s(n) for n in range(5))) == [0, 1]
    assert built_by_celery(OURS, *(pair.s(n).set(priority=n % 2) for n in range(8))) == [0, 1, 2, 3]
    assert built_by_celery(OURS, *(OURS.signature("elsewhere", (n,)) for n in range(4))) == [0, 1]


def test_a_task_class_of_the_applications_own_is_no_reason_to_leave_the_template() -> None:
    class Own(Task):  # a bare base class, as applications write it
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.run(*args, **kwargs)

        def retry(self, *args: Any, **kwargs: Any) -> Any:
            return super().retry(*args, **kwargs)

    app = make_app(task_cls=Own)
    install(app)
    assert built_by_celery(app, *(app.tasks["pair"].s(n) for n in range(4))) == [0, 1]


def test_an_own_serializer_makes_every_body() -> None:
    stock_json = registry._encoders["json"]
    registry.register("json", lambda body: "own:" + stock_json.encoder(body), None, "application/json", "utf-8")
    registry.register("shout", lambda body: stock_json.encoder(body).upper(), None, "application/x-shout", "utf-8")
    try:
        bodies = [message.body for message in ours(OURS, *(OURS.tasks["pair"].s(n) for n in range(4)))]
        app = make_app(task_serializer="shout")
        install(app)
        loud = ours(app, *(app.tasks["pair"].s("x") for n in range(4)))
        assert built_by_celery(app, *(app.tasks["pair"].s(n) for n in range(4))) == [0, 1]
    finally:
        registry.unregister("json")
        registry.unregister("shout")
        register_json()
    assert all(body.startswith(b"own:[[") for body in bodies)
    assert {(message.body[:6], message.content_type) for message in loud} == {(b'[["X"]', "application/x-shout")}


def test_a_body_that_is_never_the_same_is_left_to_celery() -> None:
    count = iter(range(100))
    app = make_app(task_serializer="counting")
    install(app)
    registry.register("counting", lambda body: f"{next(count)} {body}", None, "text/x-counting", "utf-8")
    try:
        assert built_by_celery(app, *(app.tasks["pair"].s(n) for n in range(4))) == [0, 1, 2, 3]
    finally:
        registry.unregister("counting")


def wrapped(function: Any) -> Any:
    """A function with another one around it, as instrumentations make it."""

    @wraps(function)
    def around(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return around


def nothing(n: int) -> int:
    return n


def own_apply_async(app: Celery) -> Any:
    class Own(Task):  # as above
        def apply_async(self, *args: Any, **options: Any) -> Any:
            return super().apply_async(*args, **options)

    return app.task(base=Own, name="own", shared=False)(nothing)


def own_shadow_name(app: Celery) -> Any:
    return app.task(name="own", shared=False, shadow_name=lambda _task, args, *_: str(args))(nothing)


def apply_async_of_one_task(app: Celery) -> Any:
    task: Any = app.tasks["pair"]
    task.apply_async = wrapped(task.apply_async)
    return task


def expires(app: Celery) -> Any:
    return app.task(name="own", shared=False, expires=60)(nothing)


def compression(app: Celery) -> Any:
    return app.task(name="own", shared=False, compression="zlib")(nothing)


def wrapped_send_task(app: Celery) -> Any:
    send = app.send_task
    vars(app)["send_task"] = wrapped(send)
    return app.tasks["pair"]


def wrapped_message(app: Celery) -> Any:
    amqp: Any = app.amqp
    build = amqp.create_task_message
    amqp.create_task_message = lambda *args, **options: build(*args, **options | {"argsrepr": "secret"})
    return app.tasks["pair"]


def wrapped_sender(app: Celery) -> Any:
    amqp: Any = app.amqp
    amqp.send_task_message = wrapped(amqp.send_task_message)
    return app.tasks["pair"]


def store_that_listens(app: Celery) -> Any:
    def note(*_: Any) -> None:
        pass

    note.__module__ = "shop.results"
    vars(app.backend)["on_task_call"] = note
    return app.tasks["add"]


@pytest.mark.parametrize(
    "change",
    [
        own_apply_async, own_shadow_name, apply_async_of_one_task, expires, compression, wrapped_send_task,
        wrapped_message, wrapped_sender, store_that_listens,
    ],
)  # fmt: skip
def test_what_publishes_in_its_own_way_is_never_bypassed(change: Any) -> None:
    app = make_app()
    install(app)
    task = change(app)
    assert built_by_celery(app, *(task.s(n) for n in range(4))) == [0, 1, 2, 3]


@pytest.mark.parametrize(("kind", "name"), [(Task, "apply_async"), (Signature, "apply_async")])
def test_an_instrumentation_of_celery_is_never_bypassed(kind: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(kind, name)
    monkeypatch.setattr(kind, name, wrapped(original))
    assert built_by_celery(OURS, *(OURS.tasks["pair"].s(n) for n in range(4))) == [0, 1, 2, 3]


def test_an_app_class_that_publishes_in_its_own_way_is_never_bypassed() -> None:
    class Tenants(Celery):
        def send_task(self, *args: Any, **options: Any) -> Any:
            return super().send_task(*args, **options | {"headers": {"tenant": str(next(count))}})

    class OwnAMQP(AMQP):
        pass

    count = iter(range(10))
    for app in (make_app(Tenants), make_app(amqp=OwnAMQP)):
        install(app)
        assert built_by_celery(app, *(app.tasks["pair"].s(n) for n in range(4))) == [0, 1, 2, 3]


def test_sent_events_and_the_parent_task_are_those_of_celery() -> None:
    app = make_app(task_send_sent_event=True)
    install(app)
    assert built_by_celery(app, *(app.tasks["pair"].s(n) for n in range(3))) == [0, 1, 2]
    task: Any = OURS.tasks["add"]
    templates = Templates(OURS)
    keys = []
    for parent in ("p1", "p2"):
        task.push_request(id=parent, called_directly=False, args=[], kwargs={})
        _task_stack.push(task)
        keys.append(templates.key(OURS.tasks["pair"].s(1)))
        _task_stack.pop()
        task.pop_request()
    assert len({*keys, templates.key(OURS.tasks["pair"].s(1))}) == 3


def test_wrong_arguments_become_the_outcome_of_their_signature_alone() -> None:
    found = list(_wires(OURS, [OURS.tasks["pair"].s(n, n, n) if n == 1 else OURS.tasks["pair"].s(n) for n in range(3)]))
    assert [type(each).__name__ for each in found] == ["Wire", "TypeError", "Wire"]


def test_groups_chains_and_chords_become_their_messages() -> None:
    pair = OURS.tasks["pair"]
    assert len(ours(OURS, group(pair.s(n) for n in range(3)))) == 3
    (first,) = ours(OURS, chain(pair.s(1), pair.si(2)))
    assert b'"chain": [{"task": "pair"' in first.body
    header = ours(OURS, chord([pair.s(1)], pair.si(2)))
    assert [message.headers["task"] for message in header] == ["pair"]


@pytest.mark.parametrize("option", ["countdown", "eta", "link", "link_error", "headers", "chord", "stamped_headers"])
def test_options_that_make_each_message_different_are_left_to_celery(option: str) -> None:
    signature = OURS.tasks["pair"].s(1)
    signature.options[option] = 1
    assert Templates(OURS).key(signature) is None


def test_a_router_that_may_look_at_arguments_is_asked_each_time() -> None:
    def by_argument(_name: str, args: Any, _kwargs: Any, _options: Any, **_: Any) -> dict[str, str]:
        return {"queue": "critical" if args[0] else "default"}

    app = make_app(task_routes=(by_argument,))
    install(app)
    assert [m.routing_key for m in ours(app, *(app.tasks["pair"].s(n) for n in (0, 1, 0)))] == [
        "default",
        "critical",
        "default",
    ]


def test_signal_receivers_see_every_message() -> None:
    seen: list[str] = []

    def note(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["id"])

    signals.before_task_publish.connect(note)
    try:
        messages = ours(OURS, *(OURS.tasks["pair"].s(n) for n in range(3)))
    finally:
        signals.before_task_publish.disconnect(note)
    assert seen == [message.task_id for message in messages]


@given(
    st.lists(values, max_size=4)
    | st.lists(values, max_size=4).map(tuple)
    | st.dictionaries(st.text(max_size=8), values, max_size=4)
)
def test_printed_arguments_are_those_of_celery(value: Any) -> None:
    assert plain_repr(value, 1024, 3) == saferepr(value, 1024, maxlevels=3)


@given(st.lists(st.text(max_size=2000), max_size=3), st.integers(1, 200))
def test_long_arguments_are_shortened_as_celery_does(value: list[str], limit: int) -> None:
    assert plain_repr(value, limit, 3) == saferepr(value, limit, maxlevels=3)


def test_a_soft_time_limit_ends_a_bulk_and_not_one_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def strike(*_: object) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr("holdfast.publisher.many.wires_of", strike)
    with pytest.raises(SoftTimeLimitExceeded):
        list(_wires(OURS, [OURS.tasks["pair"].s(1)]))


@pytest.mark.parametrize("learnt", [0, 2], ids=["built by Celery", "by template"])
@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), TypeError("a control: arguments that cannot be sent")])
def test_a_soft_time_limit_inside_the_serializer_is_no_fault_of_the_arguments(learnt: int, error: Exception) -> None:
    stock, strikes = registry._encoders["json"], False

    def encode(body: object) -> Any:
        if strikes:
            raise error
        return stock.encoder(body)

    registry.register("json", encode, None, "application/json", "utf-8")
    try:
        wires = _wires(OURS, [OURS.tasks["pair"].s(number) for number in range(learnt + 1)])
        assert all(isinstance(next(wires), Wire) for _ in range(learnt))
        strikes = True
        if isinstance(error, SoftTimeLimitExceeded):
            with pytest.raises(SoftTimeLimitExceeded):
                next(wires)
        else:
            assert isinstance(next(wires), EncodeError)
    finally:
        registry.unregister("json")
        register_json()

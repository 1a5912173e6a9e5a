"""Retries and delays: what is published, and what becomes of the original when it cannot be."""

from __future__ import annotations

import pickle
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from amqp.exceptions import ConnectionForced
from celery import Celery, Task, chain, chord, group
from celery._state import _task_stack
from celery.exceptions import Ignore, Reject, Retry
from kombu.exceptions import EncodeError

from holdfast import routing
from holdfast.app import install
from holdfast.outbox.workflow import record
from holdfast.publisher import Nacked, Refused, Unroutable
from holdfast.publisher.durable_amqp import collecting
from holdfast.publisher.sending import whole_seconds
from holdfast.request import PutBack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery.canvas import Signature

    from holdfast.publisher import Message

NOW = datetime.now(timezone.utc)  # the clock of the apps under test stands still: the machine may be slow
RETRY = "its retry or replacement was not accepted"


def nothing(*_: Any) -> None:
    """Do nothing."""


def make_app() -> Celery:
    app = Celery("unit", broker="amqp://nobody@127.0.0.1:1//", backend="cache+memory://", set_as_current=False)
    install(app)
    app.conf.update(
        task_queues=routing.queues(["default"]), task_default_queue="default", task_routes=(routing.Router("default"),)
    )
    app.task(name="t", shared=False)(nothing)
    vars(app)["now"] = lambda: NOW
    return app


@pytest.fixture
def app() -> Celery:
    return make_app()


@pytest.fixture
def sent() -> Iterator[list[Message]]:
    """Collect every message instead of publishing it."""
    with collecting() as messages:
        yield messages


def delays(messages: list[Message]) -> list[tuple[int, float | None]]:
    """The seconds that the broker holds each message, and those until its eta."""
    found: list[tuple[int, float | None]] = []
    for message in messages:
        bits = message.routing_key.split(".")[:28] if message.exchange == "celery_delayed_27" else ["0"]
        eta = message.headers["eta"]
        left = (datetime.fromisoformat(eta) - NOW).total_seconds() if eta else None
        found.append((int("".join(bits), 2), left))
    return found


def soon(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


PUBLISHES: dict[str, Callable[[Celery, dict[str, Any]], object]] = {
    "task": lambda app, delay: app.tasks["t"].apply_async(**delay),
    "by name": lambda app, delay: app.send_task("elsewhere", **delay),
    "by name, by place": lambda app, delay: app.send_task("elsewhere", [], {}, *delay.values()),
    "signature of a task": lambda app, delay: app.tasks["t"].s().set(**delay).delay(),
    "signature of a remote task": lambda app, delay: app.signature("elsewhere").apply_async(**delay),
    "group": lambda app, delay: group([app.signature("elsewhere").set(**delay)], app=app)(),
    "chain": lambda app, delay: chain(app.signature("elsewhere"), app.tasks["t"].si(), app=app).apply_async(**delay),
    "header of a chord": lambda app, delay: chord([app.signature("elsewhere").set(**delay)], app=app)(
        app.signature("elsewhere")
    ),
}


@pytest.mark.parametrize("way", PUBLISHES)
@pytest.mark.parametrize(("asked", "used"), [(0.2, 1), (1, 1), (1.5, 2), (60, 60), (0.999999, 1)])
def test_a_countdown_is_rounded_up_to_whole_seconds(
    app: Celery, sent: list[Message], way: str, asked: float, used: int
) -> None:
    PUBLISHES[way](app, {"countdown": asked})
    ((held, left),) = delays(sent)
    assert held == used
    assert left == used


@pytest.mark.parametrize("way", [way for way in PUBLISHES if way != "by name, by place"])
@pytest.mark.parametrize("text", [False, True])
def test_an_eta_within_two_seconds_becomes_a_countdown(app: Celery, sent: list[Message], way: str, text: bool) -> None:
    for seconds in (0.5, 1.5, 30.5):
        eta = soon(seconds)
        PUBLISHES[way](app, {"eta": eta.isoformat() if text else eta})
    assert [held for held, _ in delays(sent)] == [1, 2, 30]


def test_every_form_of_an_eta_is_understood(app: Celery, sent: list[Message]) -> None:
    forms: list[Any] = [
        soon(0.5).replace(tzinfo=None),
        soon(0.5).astimezone(),
        soon(0.5).replace(tzinfo=None).isoformat(),
        soon(0.5).isoformat().replace("+00:00", "Z"),
    ]
    for eta in forms:
        app.send_task("elsewhere", eta=eta)
    assert [held for held, _ in delays(sent)] == [1, 1, 1, 1]


def test_a_group_with_a_skew_is_rounded_member_by_member(app: Celery, sent: list[Message]) -> None:
    group(app.tasks["t"].si() for _ in range(4)).skew(start=0.25, stop=2.25, step=0.5).apply_async()
    assert [held for held, _ in delays(sent)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "delay",
    [{"countdown": 0}, {"countdown": -0.5}, {"countdown": -3}, {"eta": datetime(2020, 1, 1, tzinfo=timezone.utc)}, {}],
    ids=str,
)  # fmt: skip
def test_a_delay_that_is_over_is_left_to_celery(app: Celery, sent: list[Message], delay: dict[str, Any]) -> None:
    options = dict(delay)
    whole_seconds(app, options)
    assert options == delay
    app.tasks["t"].apply_async(**delay)
    assert delays(sent)[0][0] == 0


def test_a_delay_that_is_none_is_refused_by_celery(app: Celery, sent: list[Message]) -> None:
    for wrong in ({"eta": "tomorrow"}, {"countdown": float("inf")}, {"countdown": float("nan")}):
        with pytest.raises((ValueError, OverflowError)):
            app.send_task("elsewhere", **wrong)
    assert not sent


EXPIRIES: dict[str, Callable[[float], Any]] = {
    "seconds": lambda seconds: seconds,
    "datetime": soon,
    "ISO text": lambda seconds: soon(seconds).isoformat(),
    "ISO text with Z": lambda seconds: soon(seconds).isoformat().replace("+00:00", "Z"),
}


@pytest.mark.parametrize("way", [way for way in PUBLISHES if way != "by name, by place"])
@pytest.mark.parametrize("form", EXPIRIES)
@pytest.mark.parametrize("delay", [{}, {"countdown": 2}], ids=str)
def test_the_broker_is_never_told_when_a_task_expires(
    app: Celery, sent: list[Message], way: str, form: str, delay: dict[str, Any]
) -> None:
    for seconds in (30.5, -30.5):
        PUBLISHES[way](app, {"expires": EXPIRIES[form](seconds), **delay})
    for message, seconds in zip(sent, (30.5, -30.5), strict=True):
        assert "expiration" not in message.properties
        left = datetime.fromisoformat(message.headers["expires"].replace("Z", "+00:00")) - NOW
        assert left.total_seconds() == seconds
    assert [held for held, _ in delays(sent)] == [delay.get("countdown", 0), 1 if delay else 0]


def test_a_task_that_expires_by_its_class_or_its_row_has_no_ttl(app: Celery, sent: list[Message]) -> None:
    task: Any = app.task(name="short", shared=False, expires=5)(nothing)
    task.delay()
    app.send_task("short")
    assert [message.headers["expires"] is not None for message in sent] == [True, True]
    row = record(task.s().set(countdown=3)).messages
    assert not [message for message in [*sent, *row] if "expiration" in message.properties]


def test_a_ttl_that_the_caller_chose_for_the_message_is_kept(app: Celery, sent: list[Message]) -> None:
    task: Any = app.tasks["t"]  # the stubs know few of the options
    task.apply_async(expiration=5)
    assert sent[0].properties["expiration"] == "5000"


@pytest.mark.parametrize("form", EXPIRIES)
@pytest.mark.parametrize("delay", [lambda: {"countdown": 600}, lambda: {"eta": soon(600)}], ids=["countdown", "eta"])
def test_a_task_that_expires_before_its_time_comes_when_it_expires(
    app: Celery, sent: list[Message], form: str, delay: Any
) -> None:
    app.tasks["t"].apply_async(expires=EXPIRIES[form](4.5), **delay())
    ((held, left),) = delays(sent)
    assert held == 5
    expires = datetime.fromisoformat(sent[0].headers["expires"].replace("Z", "+00:00"))
    assert left is not None
    assert datetime.fromisoformat(sent[0].headers["eta"]) > expires, "it can never run"
    app.tasks["t"].apply_async(expires=EXPIRIES[form](900), **delay())
    assert delays(sent)[1][1] == 600


def test_a_send_task_of_the_applications_own_is_called(sent: list[Message]) -> None:
    class Tenants(Celery):
        def send_task(  # type: ignore[override]  # as applications write it
            self, name: str, args: Any = None, kwargs: Any = None, **options: Any
        ) -> Any:
            options["headers"] = {"tenant": "t1"}
            return super().send_task(name, args=args, kwargs=kwargs, **options)

    app: Any = Tenants("tenants", broker="amqp://nobody@127.0.0.1:1//", set_as_current=False)
    install(app)
    app.send_task("elsewhere", (1,), {}, 0.5, queue="q")
    app.task(name="own", shared=False)(nothing).apply_async((1,), countdown=0.5)
    assert [message.headers["tenant"] for message in sent] == ["t1", "t1"]


def run(app: Celery, failure: Exception | None, monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    """Run a task as a worker does, with every publish ending in ``failure``."""

    def unlucky(self: Task[Any, Any]) -> Any:
        return body(self)

    task: Any = app.task(bind=True, default_retry_delay=7, name="unlucky", shared=False)(unlucky)

    def publish(*_args: Any, **_options: Any) -> None:
        if failure:
            raise failure

    monkeypatch.setattr(app.amqp, "send_task_message", publish)
    task.backend.store_result("id", None, "STARTED")
    task.push_request(id="id", called_directly=False, is_eager=False, retries=0, args=[], kwargs={}, hostname="h")
    _task_stack.push(task)
    try:
        task.run()
    finally:
        _task_stack.pop()
        task.pop_request()


def again(task: Task[Any, Any]) -> Any:
    return task.retry(countdown=0.3)


def instead(task: Task[Any, Any]) -> Any:
    return task.replace(task.app.signature("elsewhere"))


AWAY = [Nacked("full"), ConnectionForced("shutdown"), ConnectionRefusedError("no broker")]


def test_a_published_retry_raises_retry(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Retry):
        run(app, None, monkeypatch, again)
    with pytest.raises(Ignore):
        run(make_app(), None, monkeypatch, instead)


@pytest.mark.parametrize("failure", AWAY, ids=repr)
def test_a_retry_that_no_broker_takes_puts_the_original_back(
    app: Celery, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    with pytest.raises(Reject) as caught:
        run(app, failure, monkeypatch, again)
    reason = pickle.loads(pickle.dumps(caught.value)).reason  # noqa: S301 - made here; as a child reports it
    assert isinstance(reason, PutBack)
    assert str(reason.reason).startswith(RETRY)


def test_a_replacement_that_no_broker_takes_puts_the_original_back(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PutBack, match=RETRY):
        run(app, AWAY[0], monkeypatch, instead)


def test_what_else_the_task_publishes_raises_as_everywhere(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Nacked):
        run(app, AWAY[0], monkeypatch, lambda task: task.app.send_task("elsewhere"))


@pytest.mark.parametrize("failure", [Refused("too large"), Unroutable("no queue"), EncodeError("no JSON")], ids=repr)
def test_a_retry_that_can_never_be_published_is_dead_lettered(
    app: Celery, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    with pytest.raises(Reject) as caught:
        run(app, failure, monkeypatch, again)
    assert type(caught.value) is Reject
    assert caught.value.args == (failure, False)


def test_a_link_that_no_broker_takes_puts_the_finished_task_back(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise AWAY[0]

    monkeypatch.setattr(app.amqp, "send_task_message", away)
    link: Signature[Any] = app.signature("elsewhere")
    amqp: Any = app.amqp
    with pytest.raises(PutBack, match="what follows it was not accepted"):
        amqp._retry_publish(link.apply_async, (1,))


def test_put_back_travels_from_child_to_parent() -> None:
    copy = pickle.loads(pickle.dumps(PutBack("no store")))  # noqa: S301 - made here
    assert (type(copy), copy.reason, copy.requeue) == (PutBack, "no store", True)

"""Which queues can be moved, what is said of them, and what a run acknowledges."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import MagicMock

import pytest
from celery import Celery
from click.testing import CliRunner
from kombu import Exchange, Queue

from celery_doctor.management import Management
from holdfast.cli import main
from holdfast.migrate import queues
from holdfast.migrate.carry import NAMED, Result
from holdfast.migrate.queue_move import BROKERS_HEADERS, QueueMover, Source, copy
from holdfast.migrate.queue_plan import NotMovableError, Plan, Shown, meet, plan
from holdfast.migrate.queues import Left, show
from holdfast.publisher import Message, Nacked, Outcome, Refused, delay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

QUORUM = {"x-queue-type": "quorum"}
Broker = dict[str, Any]


@pytest.fixture
def app() -> Celery:
    """An application that describes the new queues."""
    app = Celery("shop", broker="amqp://192.0.2.1/shop", set_as_current=False)
    jobs = Exchange("jobs", "topic")
    app.conf.task_queues = [
        Queue("orders.q", jobs, "orders.q", queue_arguments=QUORUM),
        Queue("given", jobs, "given", queue_arguments=QUORUM, no_declare=True),
        Queue("classic", jobs, "classic"),
        Queue("both", Exchange("orders"), "orders", queue_arguments=QUORUM),
        Queue("limited", jobs, "limited", queue_arguments=QUORUM, message_ttl=60, max_length=5),
    ]
    app.conf.task_create_missing_queues = False
    return app


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """The documents of the management API, by path; a test changes them."""
    documents: Broker = {
        "queues/shop/orders": {"type": "classic", "arguments": {}, "durable": True, "messages_unacknowledged": 2},
        "queues/shop/orders/bindings": [bound("", "orders", "orders"), bound("orders", "orders", "orders")],
        "exchanges/shop/orders": {"type": "direct"},
        "exchanges/shop/jobs": {"type": "topic"},
    }
    monkeypatch.setattr(Management, "_ask", lambda _, path: documents.get(path))
    return documents


def bound(exchange: str, key: str, queue: str) -> dict[str, str]:
    return {"source": exchange, "routing_key": key, "destination": queue}


def planned(app: Celery, new: str = "orders.q", old: str = "orders") -> Plan:
    return plan(app, Shown(app, "http://192.0.2.1:15672", "shop"), old, new)


def test_a_queue_that_is_not_there_is_declared_and_reached_as_the_application_says(app: Celery, broker: Broker) -> None:
    found = planned(app)
    assert (found.place, found.declares) == (("jobs", "orders.q"), True)
    assert found.new.name == "orders.q"
    assert len(broker) == 4


def test_where_the_key_leads_elsewhere_too_the_default_exchange_leads_to_the_new_queue_alone(
    app: Celery, broker: Broker
) -> None:
    broker["exchanges/shop/jobs/bindings/source"] = [bound("jobs", "orders.#", "archive")]
    assert planned(app).place == ("", "orders.q")
    broker["exchanges/shop/jobs/bindings/source"] = [bound("jobs", "orders.q", "orders.q")]
    broker["queues/shop/orders.q"] = {"type": "quorum", "arguments": QUORUM}
    assert planned(app).place == ("", "orders.q"), "the queue is there and not bound"
    broker["queues/shop/orders.q/bindings"] = [bound("jobs", "orders.q", "orders.q")]
    assert planned(app).place == ("jobs", "orders.q")


@pytest.mark.parametrize(
    ("pair", "changes", "said"),
    [
        ("orders=orders", {}, "allowed: two names"),
        ("none=orders.q", {}, "no queue none"),
        ("orders=typo", {}, "the application has no queue typo"),
        ("orders=classic", {}, "would be a queue of the type classic"),
        ("orders=given", {}, "add given to the broker's definitions"),
        ("orders=both", {}, "would run twice"),
        ("orders=orders.q", {"type": "stream"}, "is a stream"),
        ("orders=orders.q", {"exclusive": True}, "is exclusive"),
        ("orders=orders.q", {"auto_delete": True}, "auto_delete"),
    ],
)
def test_what_is_not_safe_is_refused(
    pair: str, changes: dict[str, Any], said: str, app: Celery, broker: Broker
) -> None:
    broker["queues/shop/orders"] |= changes
    old, _, new = pair.partition("=")
    with pytest.raises(NotMovableError, match=said) as caught:
        planned(app, new, old)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["found", "allowed", "next"]


def test_a_classic_queue_under_the_new_name_is_refused(app: Celery, broker: Broker) -> None:
    broker["queues/shop/orders.q"] = {"type": "classic", "arguments": {}}
    with pytest.raises(NotMovableError, match="is a queue of the type classic"):
        planned(app)


def test_each_setting_that_the_new_queue_lacks_is_named(app: Celery, broker: Broker) -> None:
    broker["queues/shop/orders"] |= {
        "durable": False,
        "arguments": {"x-message-ttl": 60000, "x-max-length": 7, "x-queue-mode": "lazy", "x-max-priority": 5},
        "effective_policy_definition": {"dead-letter-exchange": "dead", "overflow": "reject-publish-dlx"},
    }
    found = {one.partition(": ")[0]: one.partition(": ")[2] for one in planned(app, "limited").differs}
    assert list(found) == [
        "dead-letter-exchange=dead", "max-length=7", "max-priority=5", "overflow=reject-publish-dlx", "queue-mode=lazy",
        "not durable",
    ]  # fmt: skip
    assert "policy" in found["dead-letter-exchange=dead"]
    assert "drop-head" in found["overflow=reject-publish-dlx"]
    assert "0 to 31" in found["max-priority=5"]


@pytest.mark.parametrize(
    ("kind", "one", "other", "both"),
    [
        ("direct", "a", "a", True),
        ("direct", "a", "b", False),
        ("direct", "#", "b", False),
        ("topic", "a.#", "a", True),
        ("topic", "#.orders", "orders", True),
        ("topic", "#.orders", "#.post", False),
        ("topic", "a.*", "*.b", True),
        ("topic", "a.*", "a", False),
        ("topic", "a.*.c", "#.b.c", True),
        ("topic", "*", "#", True),
        ("fanout", "a", "b", True),
        ("headers", "", "", True),
    ],
)
def test_whether_a_message_can_match_two_bindings(kind: str, one: str, other: str, both: bool) -> None:
    assert meet(kind, one, other) is both
    assert meet(kind, other, one) is both


class Old:
    """The old queue, in memory: what is not acknowledged stays."""

    def __init__(self, *raws: Any) -> None:
        self.left = list(raws)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.left))

    def done(self, raw: Any) -> None:
        self.left.remove(raw)


def raw(task_id: str = "t", *, redelivered: Any = False, **headers: Any) -> Any:
    properties = {
        "application_headers": {"id": task_id, "task": "pay", **headers}, "content_type": "application/json",
        "content_encoding": "utf-8", "correlation_id": task_id, "priority": 3, "expiration": "60000",
        "delivery_mode": 1, "timestamp": 1_700_000_000, "user_id": "shop",
    }  # fmt: skip
    info = {"redelivered": redelivered}
    return MagicMock(body=b"[[1], {}, {}]", properties=properties, delivery_info=info, delivery_tag=task_id)


def mover(app: Celery, *errors: Exception | None) -> tuple[QueueMover, list[Message]]:
    """Return a mover over a publisher in memory; messages end in these errors, the rest is confirmed."""
    published: list[Message] = []

    def publish_all(messages: Iterable[Message], **_: object) -> Iterator[Outcome]:
        for index, one in enumerate(messages):
            published.append(one)
            yield Outcome(index, one.task_id, errors[index] if index < len(errors) else None)

    publisher = MagicMock(publish_all=publish_all)
    return QueueMover(app, MagicMock(), publisher, lambda _: None), published


def carry(app: Celery, old: Old, *errors: Exception | None, exchange: str = "jobs") -> tuple[Result, list[Message]]:
    made, published = mover(app, *errors)
    described: Any = app.amqp.queues["orders.q"]
    made._carry(Plan("orders", described, (exchange, "orders.q"), False, []), cast("Source", old))
    return made.result, published


def test_a_message_keeps_all_but_what_is_the_brokers_own() -> None:
    brokers: dict[str, Any] = dict.fromkeys(BROKERS_HEADERS, 3)
    given = raw(tenant="a", **brokers)
    made = copy(given, "jobs", "orders.q")
    assert (made.exchange, made.routing_key, made.body) == ("jobs", "orders.q", given.body)
    assert made.headers == {"id": "t", "task": "pay", "tenant": "a"}
    assert made.properties == {
        "correlation_id": "t", "priority": 3, "expiration": "60000", "delivery_mode": 1, "timestamp": 1_700_000_000,
    }  # fmt: skip
    made.encode()
    assert Message.decode(made.encode()).properties == made.properties


def test_what_is_confirmed_is_acknowledged_in_order_and_what_came_before_is_counted(app: Celery) -> None:
    old = Old(raw("a", redelivered=True), raw("b"), raw("c"))
    result, published = carry(app, old)
    assert [one.task_id for one in published] == ["a", "b", "c"]
    assert (result.moved, result.resumed, old.left) == ({"orders": 3}, 1, [])


def test_what_is_not_confirmed_stays(app: Celery) -> None:
    old = Old(raw("a"), raw("b"), raw("c"))
    result, _ = carry(app, old, None, Nacked("the queue is full"))
    assert [one.delivery_tag for one in old.left] == ["b", "c"]
    assert (result.moved, "full" in str(result.stopped)) == ({"orders": 1}, True)


def test_what_is_refused_is_named_and_the_others_go_on(app: Celery) -> None:
    old = Old(raw("big"), raw("odd", eta="tomorrow"), raw("fine"))
    result, published = carry(app, old, Refused("too large"))
    assert [one.task_id for one in published] == ["big", "fine"]
    assert {one["task_id"] for one in result.reasons} == {"big", "odd"}
    assert ([one.delivery_tag for one in old.left], result.stopped) == (["big", "odd"], None)


def test_so_many_refused_messages_that_the_old_queue_gives_no_more_end_the_run(app: Celery) -> None:
    old = Old(*(raw(str(number), eta="tomorrow") for number in range(2 * NAMED)))
    result, _ = carry(app, old)
    assert (result.refused, result.stopped) == (NAMED, f"{NAMED} messages are refused")


def test_a_countdown_waits_in_the_broker_where_an_exchange_leads_on(app: Celery) -> None:
    _, published = carry(app, Old(raw(eta="2999-01-01T00:00:00+00:00")))
    assert published[0].exchange == delay.EXCHANGE
    _, published = carry(app, Old(raw(eta="2999-01-01T00:00:00+00:00")), exchange="")
    assert (published[0].exchange, published[0].routing_key) == ("", "orders.q")


def source(monkeypatch: pytest.MonkeyPatch, *counts: int, late: Iterable[str] = ()) -> tuple[Source, Any]:
    """Return a source of a queue with so many messages each time that it is asked, and its channel."""
    monkeypatch.setattr("holdfast.migrate.queue_move.PATIENCE", 0)
    connection: Any = MagicMock()
    channel = connection.channel()
    channel.queue_declare.side_effect = [MagicMock(message_count=number) for number in counts]
    made = Source(connection, "orders")
    arrived = iter(late)

    def drain(**_: object) -> None:
        for one in arrived:
            channel.basic_consume.call_args.kwargs["callback"](one)
            break
        else:
            raise TimeoutError

    connection.drain_events.side_effect = drain
    return made, channel


def test_a_source_ends_with_what_waited_at_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    made, channel = source(monkeypatch, 2, late=["a", "b", "c"])
    assert list(made) == ["a", "b"]
    made.close()
    assert channel.send_method.call_args.args[2] == (0, True, True), "what is left is given back"


def test_a_source_ends_when_workers_have_taken_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = source(monkeypatch, 7, 0, late=["a"])
    assert list(made) == ["a"]


def test_a_queue_that_gives_nothing_ends_the_run_although_it_has_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = source(monkeypatch, 7, 7)
    assert list(made) == []


def test_the_next_step_is_said_for_everything_that_is_left(app: Celery, broker: Broker) -> None:
    broker["queues/shop/orders"] |= {"arguments": {"x-max-priority": 5}}
    plans = [planned(app)]
    told = show(plans, Result(), Left(Counter(orders=1)), dry=True)
    assert "orders -> orders.q (will declare; by exchange jobs, key orders.q)" in told
    assert "differs   max-priority=5" in told
    assert "--dry-run" in told
    assert "(declared;" in show(plans, Result(), Left(), dry=False)
    assert "run this again" in show([], Result(), Left(Counter(orders=1)), dry=False)
    assert "SIGTERM" in show([], Result(), Left(unacked=Counter(orders=1)), dry=False)
    assert "took no more" in show([], Result(stopped="full"), Left(), dry=False)
    assert "refused" in show([], Result(refused=1), Left(), dry=False)
    assert "rabbitmqctl delete_queue" in show([], Result(), Left(), dry=False)


class Connected:
    """What the command needs of a connection, with one message in each queue."""

    virtual_host = "shop"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.default_channel: Any = MagicMock()
        self.default_channel.queue_declare.return_value = MagicMock(message_count=1, consumer_count=2)

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ensure_connection(self, **_: object) -> None:
        if self.error:
            raise self.error


@pytest.fixture
def called(app: Celery, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ARG001 - what is there
    """Run the command without a broker."""

    def call(*arguments: str, error: Exception | None = None) -> Any:
        monkeypatch.setattr(queues, "load_app", lambda _: app)
        monkeypatch.setattr(queues, "amqp_app", lambda *_: None)
        monkeypatch.setattr(app, "connection_for_write", lambda *_, **__: Connected(error))
        default = ["-A", "shop", "--management", "http://192.0.2.1:15672"]
        return CliRunner().invoke(main, ["migrate-queues", *default, *arguments])

    return call


def test_a_dry_run_counts_and_moves_nothing(called: Any) -> None:
    done = called("orders=orders.q", "--dry-run", "--json")
    assert done.exit_code == 3, done.output
    said = json.loads(done.stdout)
    assert said["left"] == {"waiting": {"orders": 1}, "unacked": {"orders": 2}, "workers": {"orders": 2}, "total": 3}
    assert (said["result"]["moved"], said["plans"][0]["new"]) == ({}, "orders.q")


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["orders"], "write OLD=NEW", 2),
        (["orders=orders.q", "orders.q=given"], "run the command twice", 2),
        (["orders=orders.q", "--management", "amqp://192.0.2.1"], "http://user:password@host:15672", 2),
        (["orders=both", "none=orders.q"], "no queue none", 1),
        (["none=orders.q", "orders=both"], "would run twice", 1),
    ],
)
def test_a_wrong_call_says_what_is_allowed(arguments: list[str], said: str, code: int, called: Any) -> None:
    done = called(*arguments)
    assert (done.exit_code, said in done.output) == (code, True), done.output


def test_a_broker_that_is_away_is_an_error_that_says_the_next_step(called: Any) -> None:
    done = called("orders=orders.q", error=ConnectionRefusedError("refused"))
    assert (done.exit_code, "run it again; nothing is lost" in done.output) == (1, True)


def test_an_application_on_redis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    still = Celery("still", broker="redis://192.0.2.1", set_as_current=False)
    monkeypatch.setattr(queues, "load_app", lambda _: still)
    done = CliRunner().invoke(main, ["migrate-queues", "-A", "still", "--management", "http://192.0.2.1", "a=b"])
    assert (done.exit_code, "holdfast migrate-broker" in done.output) == (1, True)

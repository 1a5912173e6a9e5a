"""The notice of an expiry: which task messages have one, and who decides whether a task runs or is reported."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from amqp.exceptions import NotFound
from celery import Celery
from celery.app.task import Context
from celery.concurrency.solo import TaskPool as SoloPool
from hypothesis import given, settings
from hypothesis import strategies as st
from timer import Timer

from holdfast.notices import AGAIN, OLD, WAIT, Notices, claim, install
from holdfast.publisher import Disconnected, NotAcknowledged, Policy, Refused, Unroutable
from holdfast.publisher.attempt import Cluster
from holdfast.publisher.link import Suspected
from holdfast.publisher.message import Message
from holdfast.publisher.notice import notice_of
from holdfast.request import PutBack
from holdfast.results import DurableSentinelBackend


def soon(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()


def task(**headers: Any) -> Message:
    given = {"id": "t", "task": "shop.buy", "retries": 0, "ignore_result": None} | headers
    properties = {"correlation_id": "t", "priority": 0, "delivery_mode": 2}
    return Message("tasks", "default", b"[[1], {}, {}]", "application/json", "utf-8", given, properties)


def delay(key: str) -> int:
    *bits, queue = key.split(".")
    assert queue == "expired"
    return int("".join(bits), 2)


@settings(deadline=None)
@given(st.floats(0.1, 2**28 - 2))
def test_a_notice_arrives_when_the_task_has_expired_and_not_much_later(seconds: float) -> None:
    message = task(expires=soon(seconds))
    wire = notice_of(message.encode(), "expired")
    assert wire
    found = Message.decode(wire)
    assert seconds - 1 <= delay(found.routing_key) <= seconds + 1
    assert (found.exchange, found.headers, found.body) == ("celery_delayed_27", message.headers, b"null")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"expires": None},
        {"expires": soon(-1)},
        {"expires": soon(2**29)},
        {"expires": "2999-01-01T00:00:00"},
        {"expires": "soon"},
        {"expires": 5},
        {"expires": soon(9), "ignore_result": True},
        {"kwargsrepr": "\x07expiresS"},
    ],
)
def test_a_task_without_an_expiry_that_somebody_could_ask_for_has_none(headers: dict[str, Any]) -> None:
    assert notice_of(task(**headers).encode(), "expired") is None


class Link:
    """Notes what is sent; the broker's answer comes when it is told."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def submit(self, batch: Any, _until: float) -> None:
        self.sent += batch


@pytest.mark.parametrize(
    ("error", "more"),
    [
        (None, 1),
        (Disconnected("closed"), 1),
        (Suspected("closed"), 0),
        (Refused("no exchange"), 0),
        (Unroutable("x"), 0),
    ],
)
def test_where_notices_cannot_arrive_no_other_is_sent_for_a_while(error: NotAcknowledged | None, more: int) -> None:
    link = Link()
    nodes: Any = SimpleNamespace(opened=lambda: link)
    cluster = Cluster(nodes, Policy())
    wire = task(expires=soon(9)).encode()
    cluster.announce(wire)
    assert not link.sent, "the application has no queue for notices"
    cluster.expired = "expired"
    cluster.announce(wire)
    link.sent[0].settle(error)
    cluster.announce(wire)
    assert len(link.sent) == 1 + more


def test_a_publish_opens_no_link_for_a_notice() -> None:
    nodes: Any = SimpleNamespace(opened=lambda: None)
    cluster = Cluster(nodes, Policy())
    cluster.expired = "expired"
    cluster.announce(task(expires=soon(9)).encode())


# -- the claim


class Store(DurableSentinelBackend):
    """The backend with a dict for a store.

    Args:
        extended: what is stored of a task says which attempt it is of.
    """

    def __init__(self, extended: bool = True) -> None:
        app = Celery("unit", set_as_current=False)
        app.conf.update(result_extended=extended, result_backend_transport_options={"master_name": "results"})
        super().__init__(app=app, url="sentinel://192.0.2.1/0")
        self.keys: dict[Any, Any] = {}
        self.seconds: list[int] = []

    client = MagicMock()  # tells who waits

    def get(self, key: Any) -> Any:
        return self.keys.get(key)

    def mget(self, keys: Any) -> Any:
        return [self.keys.get(key) for key in keys]

    def _durable(self, *commands: tuple[Any, ...]) -> list[Any]:
        answers = []
        for name, key, *rest in commands:
            if name == "GET":
                answers.append(self.keys.get(key))
            elif name == "EXPIRE":
                answers.append(int(key in self.keys))
            elif rest[1] == "NX":
                value, _, ex, seconds = rest
                assert ex == "EX"
                self.seconds.append(seconds)
                answers.append(None if key in self.keys else "OK")
                self.keys.setdefault(key, value)
            else:
                self.keys[key] = rest[0]
                answers.append("OK")
        return answers

    def _tell(self, key: bytes, news: bytes) -> None:
        self.keys[key] = news

    def state(self, task_id: str) -> str:
        return str(self.decode(self.keys[self.get_key_for_task(task_id)])["status"])


def context(task_id: str = "t", retries: int = 0, expires: str = "2030-01-01T00:00:00+00:00") -> Context:
    return Context({"id": task_id, "retries": retries, "expires": expires})


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["start", "notice"]), st.sampled_from("ab"), st.integers(0, 1)), max_size=30))
def test_an_attempt_either_runs_or_is_reported_however_often_both_try(steps: list[tuple[str, str, int]]) -> None:
    store = Store()
    fate: dict[tuple[str, int], str] = {}
    for step, task_id, retries in steps:
        first = fate.setdefault((task_id, retries), step)
        if step == "notice":
            stored = store.revoke_unstarted([context(task_id, retries)], "expired")
            assert stored == ({task_id} if first == "notice" else set())
        elif first == "start":
            store.claim_start(context(task_id, retries))
        else:
            with pytest.raises(PutBack, match="reported as expired"):
                store.claim_start(context(task_id, retries))


def test_a_task_that_is_sent_again_with_more_time_may_run() -> None:
    store = Store()
    assert store.revoke_unstarted([context()], "expired") == {"t"}
    store.claim_start(context(expires="2031-01-01T00:00:00+00:00"))


ERRORS = dict.fromkeys(("FAILURE", "RETRY"), ValueError("no"))
# what a worker that claims nothing leaves behind: what, the attempt it is of, and the attempt that the notice is of
TRACES = [
    ("SUCCESS", 0, 0),
    ("FAILURE", 0, 0),
    ("FAILURE", 1, 1),
    ("STARTED", 0, 0),
    ("STARTED", 2, 2),
    ("STARTED", 1, 0),  # each attempt has a notice
    ("RETRY", 0, 0),
    ("PROGRESS", 1, 1),
]


@pytest.mark.parametrize(("state", "attempt", "noticed"), TRACES)
def test_what_a_worker_started_without_a_claim_is_not_reported(state: str, attempt: int, noticed: int) -> None:
    store = Store()
    store.store_result("t", ERRORS.get(state), state, request=context(retries=attempt))
    before = dict(store.keys)
    assert store.revoke_unstarted([context(retries=noticed), context("u")], "expired") == {"u"}
    assert (store.state("t"), store.state("u")) == (state, "REVOKED")
    assert before.items() <= store.keys.items(), "what is there stays as it is"


@pytest.mark.parametrize("state", ["STARTED", "RETRY"])
def test_what_names_no_attempt_is_of_the_first_one(state: str) -> None:
    store = Store(extended=False)
    store.store_result("t", ERRORS.get(state), state, request=context())
    assert store.revoke_unstarted([context()], "expired") == set()
    assert store.revoke_unstarted([context(retries=1)], "expired") == {"t"}


@pytest.mark.parametrize(
    ("state", "request_", "noticed"), [("RETRY", context(), 1), ("STARTED", context(), 1), ("SENT", None, 0)]
)
def test_an_attempt_that_waits_is_reported_whatever_was_before(state: str, request_: Any, noticed: int) -> None:
    store = Store()
    store.store_result("t", ERRORS.get(state), state, request=request_)
    assert store.revoke_unstarted([context(retries=noticed)], "expired") == {"t"}
    assert store.state("t") == "REVOKED"


def test_a_report_that_the_disks_did_not_confirm_is_written_again() -> None:
    store = Store()
    for _ in range(2):
        assert store.revoke_unstarted([context()], "expired") == {"t"}


def test_a_claim_outlasts_every_notice_that_counts() -> None:
    store = Store()
    store.claim_start(context(expires=soon(1000)))
    store.claim_start(context(expires=soon(-1000)))
    assert min(store.seconds) > OLD.total_seconds()
    assert max(store.seconds) > 1000 + OLD.total_seconds()


class Backend:
    """Notes what starts."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def claim_start(self, request: Any) -> None:
        self.started.append(request.id)


@pytest.mark.parametrize(
    ("request_", "claimed"),
    [
        ({"expires": "2030-01-01T00:00:00+00:00"}, ["t"]),
        ({}, []),
        ({"expires": "2030-01-01T00:00:00+00:00", "ignore_result": True}, []),
        ({"expires": "2030-01-01T00:00:00+00:00", "is_eager": True}, []),
    ],
)
def test_only_what_expires_and_is_stored_is_claimed(request_: dict[str, Any], claimed: list[str]) -> None:
    backend = Backend()
    task: Any = SimpleNamespace(request=Context({"id": "t"} | request_), backend=backend, ignore_result=False)
    claim(task)
    assert backend.started == claimed


@pytest.mark.parametrize("queue", [None, "expired"])
def test_a_worker_claims_only_where_notices_are_sent(queue: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("unit", set_as_current=False)
    app.conf.holdfast_expired_queue = queue
    begun: list[str] = []
    monkeypatch.setattr(app.loader, "on_task_init", lambda task_id, _task: begun.append(task_id))
    install(app)
    (check,) = vars(app)["holdfast_checks"]
    check(SimpleNamespace(app=app))
    backend = Backend()
    task = SimpleNamespace(request=context(), backend=backend, ignore_result=False)
    app.loader.on_task_init("t", task)
    assert (begun, backend.started) == (["t"], ["t"] if queue else [])


# -- the step of the worker


class Channel:
    """Hands out messages and notes what is acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.consumed: list[str] = []
        self.missing = False

    def basic_qos(self, *_: Any) -> None:
        pass

    def basic_consume(self, queue: str, callback: Any) -> None:
        if self.missing:
            raise NotFound(f"no queue {queue!r}")
        self.consumed.append(queue)
        self.deliver = callback

    def basic_ack(self, tag: str) -> None:
        self.acknowledged.append(tag)

    def hand_out(self, *notices: dict[str, Any]) -> None:
        for headers in notices:
            message = SimpleNamespace(
                channel=self, delivery_tag=headers["id"], properties={"application_headers": headers}
            )
            self.deliver(message)


class Reporter:
    """Notes what it is asked to report."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.error: Exception | None = None

    def revoke_unstarted(self, contexts: list[Any], _why: str) -> frozenset[str]:
        if self.error:
            raise self.error
        self.asked.append([one.id for one in contexts])
        return frozenset(self.asked[-1])


@pytest.fixture
def c() -> Any:
    channel, backend = Channel(), Reporter()
    tasks = {
        "buy": SimpleNamespace(backend=backend, ignore_result=False),
        "log": SimpleNamespace(backend=backend, ignore_result=True),
        "stock": SimpleNamespace(backend=object(), ignore_result=False),
    }
    app = SimpleNamespace(conf={"holdfast_expired_queue": "expired"}, tasks=tasks, backend=backend)
    connection = SimpleNamespace(transport=SimpleNamespace(driver_type="amqp"), channel=lambda: channel)
    return SimpleNamespace(app=app, pool=None, timer=Timer(), connection=connection, channel=channel, backend=backend)


@pytest.fixture
def step(c: Any) -> Notices:
    step = Notices(c)
    step.start(c)
    return step


def notice(name: str, due: float = -1, **headers: Any) -> dict[str, Any]:
    return {"id": name, "task": "buy", "ignore_result": None, "expires": soon(due)} | headers


@pytest.mark.usefixtures("step")
def test_all_that_are_due_are_stored_with_one_question_and_acknowledged(c: Any) -> None:
    c.channel.hand_out(*map(notice, "abc"))
    assert not c.channel.acknowledged
    c.timer.run()
    assert (c.backend.asked, c.channel.acknowledged) == ([["a", "b", "c"]], ["a", "b", "c"])
    assert not c.timer.entries


@pytest.mark.parametrize(
    "headers",
    [
        notice("x", task="log"),
        notice("x", task="stock"),
        notice("x", task="unknown"),
        notice("x", due=-OLD.total_seconds() - 5),
        notice("x", expires="soon"),
        {"id": "x"},
    ],
)
@pytest.mark.usefixtures("step")
def test_where_nothing_is_to_be_stored_the_notice_is_dropped(c: Any, headers: dict[str, Any]) -> None:
    c.channel.hand_out(headers)
    c.timer.run()
    assert (c.backend.asked, c.channel.acknowledged) == ([], ["x"])


@pytest.mark.usefixtures("step")
def test_a_task_that_this_worker_does_not_know_is_reported_where_its_application_stores(c: Any) -> None:
    c.channel.hand_out(notice("x", task="unknown", ignore_result=False))
    c.timer.run()
    assert c.backend.asked == [["x"]]


@pytest.mark.usefixtures("step")
def test_a_clock_that_is_behind_does_not_report_too_early(c: Any) -> None:
    c.channel.hand_out(notice("x", due=60))
    c.timer.run()
    assert (c.backend.asked, c.channel.acknowledged) == ([], [])
    assert c.timer.run() == AGAIN


@pytest.mark.usefixtures("step")
def test_a_store_that_is_away_is_asked_again(c: Any) -> None:
    c.backend.error = PutBack("away")
    c.channel.hand_out(notice("x"))
    c.timer.run()
    assert not c.channel.acknowledged
    c.backend.error = None
    assert c.timer.run() == AGAIN
    assert (c.backend.asked, c.channel.acknowledged) == ([["x"]], ["x"])


@pytest.mark.usefixtures("step")
def test_a_notice_that_waits_delays_no_fresh_one(c: Any) -> None:
    c.channel.hand_out(notice("early", due=60))
    c.timer.run()
    c.channel.hand_out(notice("x"))
    assert c.timer.run() == WAIT
    assert (c.backend.asked, c.channel.acknowledged) == ([["x"]], ["x"])
    assert c.timer.run() == AGAIN


def test_a_notice_that_arrives_while_a_timer_thread_reports_is_not_forgotten(c: Any, step: Notices) -> None:
    class Outrun(deque[Any]):
        def append(self, message: Any) -> None:
            if message.delivery_tag == "y":
                c.timer.run()
            super().append(message)

    step._batch = Outrun()
    c.channel.hand_out(notice("x"), notice("y"))
    c.timer.run()
    assert c.channel.acknowledged == ["x", "y"]


@pytest.mark.usefixtures("step")
def test_a_notice_that_cannot_be_stored_is_dropped(c: Any) -> None:
    c.backend.error = ValueError("odd")
    c.channel.hand_out(notice("x"))
    c.timer.run()
    assert c.channel.acknowledged == ["x"]


def test_a_lost_connection_forgets_what_came_over_it(c: Any, step: Notices) -> None:
    c.channel.hand_out(notice("x"))
    step.stop(c)
    assert not c.timer.entries
    step.start(c)
    c.channel.hand_out(notice("y"))
    c.timer.run()
    assert c.backend.asked == [["y"]]


@pytest.mark.parametrize("why", ["setting", "redis", "solo"])
def test_a_worker_without_notices(c: Any, why: str) -> None:
    if why == "setting":
        c.app.conf = {}
    elif why == "redis":
        c.connection.transport.driver_type = "redis"
    else:
        c.pool = object.__new__(SoloPool)
    Notices(c).start(c)
    assert not c.channel.consumed


def test_a_missing_queue_does_not_hinder_the_worker(c: Any, caplog: pytest.LogCaptureFixture) -> None:
    c.channel.missing = True
    Notices(c).start(c)
    assert "Apply the broker's definitions, or set holdfast_expired_queue to None" in caplog.text

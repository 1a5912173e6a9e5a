"""What becomes of a message of kombu's redis transport, what a run claims and drops, and what it says."""

from __future__ import annotations

import base64
import json
from collections import Counter
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import MagicMock

import pytest
from celery import Celery
from click.testing import CliRunner
from kombu import Connection, Exchange, Queue

from holdfast.cli import main
from holdfast.migrate.carry import Result
from holdfast.migrate.command import show
from holdfast.migrate.count import Left, count
from holdfast.migrate.message import Stored, Targets, UnreadableError
from holdfast.migrate.move import HELD_BY_WORKERS, Mover
from holdfast.migrate.old import HOLDING, UNACKED, Held, OldBroker, Spot
from holdfast.publisher import Message, Outcome, Refused, TimedOut, delay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BINDINGS = {"celery": [("celery", "", "celery")], "mails": [("mail.#", r"^mail($|\..*)", "mail")]}


def stored(**options: Any) -> dict[str, Any]:
    """Return what kombu keeps of a task that Celery has published; its virtual transports share the format."""
    app = Celery("old", broker="memory://", set_as_current=False)
    taken: dict[str, Any] = {}
    with Connection("memory://") as connection:
        queue = connection.SimpleQueue(f"old-{id(taken)}")
        publish: Any = app.send_task  # the stubs know no queue but its name
        publish("shop.pay", (7, "ä"), {"x": None}, connection=connection, queue=queue.queue, **options)
        found: dict[str, Any] = connection.default_channel._get(queue.queue.name)
        return found


def raw(**options: Any) -> bytes:
    return json.dumps(stored(**options), ensure_ascii=False).encode()


@pytest.fixture
def app() -> Celery:
    """The application on RabbitMQ: quorum queues on a topic exchange."""
    app = Celery("new", broker="amqp://192.0.2.1", set_as_current=False)
    app.conf.task_queues = [
        Queue(name, Exchange("tasks", "topic"), name, queue_arguments={"x-queue-type": "quorum"})
        for name in ("celery", "mail", "post")
    ]
    app.conf.task_create_missing_queues = False
    return app


def targets(app: Celery, skipped: Iterable[str] = (), *, turned: bool = False, **names: str) -> Targets:
    return Targets(app, names, frozenset(skipped), turned=turned)


def message(app: Celery, found: dict[str, Any], **changes: Any) -> Message:
    to = targets(app, **changes)
    queue = to.queue("celery")
    assert queue is not None
    return to.message(Stored.read(json.dumps(found).encode(), held=False), queue)


def test_a_task_keeps_all_that_the_worker_reads(app: Celery) -> None:
    found = stored(priority=6, task_id="t1", reply_to="answers", expires=500, headers={"tenant": "a"})
    made = message(app, found)
    assert (made.exchange, made.routing_key, made.task_id) == ("tasks", "celery", "t1")
    assert json.loads(made.body)[:2] == [[7, "ä"], {"x": None}]
    assert (made.content_type, made.content_encoding) == ("application/json", "utf-8")
    assert made.headers == found["headers"]
    assert made.headers["tenant"] == "a"
    assert made.headers["expires"]
    assert made.properties == {"delivery_mode": 2, "priority": 6, "correlation_id": "t1", "reply_to": "answers"}
    made.encode()


def test_bodies_that_are_no_text_arrive_as_they_were(app: Celery) -> None:
    found = stored() | {"body": base64.b64encode(b"\x80\x04\xff").decode(), "content-encoding": "binary"}
    assert message(app, found).body == b"\x80\x04\xff"


def test_a_priority_is_turned_only_when_it_is_asked_for(app: Celery) -> None:
    assert message(app, stored(priority=3)).properties["priority"] == 3
    assert message(app, stored(priority=3), turned=True).properties["priority"] == 6


def test_a_task_with_an_eta_waits_in_the_broker_for_what_is_left(app: Celery) -> None:
    due = datetime.now(timezone.utc) + timedelta(seconds=65)
    made = message(app, stored(eta=due))
    assert made.exchange == delay.EXCHANGE
    bits, rest = made.routing_key.split(".")[:28], made.routing_key.split(".")[28:]
    assert int("".join(bits), 2) in {63, 64, 65}
    assert rest == ["celery"]
    assert made.headers["eta"] == due.isoformat()


def test_a_time_that_has_passed_is_now(app: Celery) -> None:
    made = message(app, stored(eta=datetime.now(timezone.utc) - timedelta(seconds=5)))
    assert made.routing_key == "0." * 28 + "celery"


@pytest.mark.parametrize("change", [{"type": "direct"}, {"kind": "classic"}])
def test_where_the_broker_has_no_delay_the_worker_waits_as_before(app: Celery, change: dict[str, str]) -> None:
    kind, arguments = change.get("type", "topic"), {"x-queue-type": change.get("kind", "quorum")}
    app.conf.task_queues = [Queue("celery", Exchange("tasks", kind), "celery", queue_arguments=arguments)]
    made = message(app, stored(countdown=60))
    assert (made.exchange, made.routing_key) == ("tasks", "celery")


@pytest.mark.parametrize(
    "change",
    [{"body": 5}, {"body": "ä", "content-encoding": "never-heard-of"}, {"headers": {"eta": "soon"}}],
)
def test_what_cannot_be_read_says_so(app: Celery, change: dict[str, Any]) -> None:
    found = stored() | change
    if "never-heard-of" in change.values():
        found["properties"].pop("body_encoding")
    with pytest.raises(UnreadableError):
        message(app, found)


@pytest.mark.parametrize("wrong", [b"", b"{", b"[]", b'"text"', b"{}", b"\xff", b"null"])
def test_what_is_no_message_says_so(wrong: bytes) -> None:
    for held in (False, True):
        with pytest.raises(UnreadableError):
            Stored.read(wrong, held=held)


@pytest.mark.parametrize(
    ("exchange", "key", "queues"),
    [("celery", "celery", ["celery"]), ("mails", "mail.fast", ["mail"]), ("", "direct", ["direct"])],
)
def test_what_a_worker_held_goes_where_kombu_would_give_it_back(exchange: str, key: str, queues: list[str]) -> None:
    assert Stored.read(held(exchange, key), held=True).queues(BINDINGS) == queues


def test_without_a_binding_there_is_no_queue() -> None:
    with pytest.raises(UnreadableError, match="no queue is bound"):
        Stored.read(held("celery", "other"), held=True).queues(BINDINGS)


def held(exchange: str, key: str, **options: Any) -> bytes:
    return json.dumps([stored(**options), exchange, key]).encode()


class Old(OldBroker):
    """An old broker in memory."""

    def __init__(self, lists: dict[str, list[bytes]], unacked: Sequence[bytes] = ()) -> None:
        self.lists, self.claimed = lists, list[Held]()
        self.tags = {f"tag{number}": entry for number, entry in enumerate(unacked)}

    def alone(self) -> Any:
        return nullcontext(MagicMock())

    def bindings(self) -> dict[str, list[tuple[str, str, str]]]:
        return BINDINGS

    def waiting(self) -> list[Spot]:
        return [Spot(name, 0, name, len(found)) for name, found in self.lists.items() if found]

    def unacked(self) -> Iterator[tuple[str, bytes]]:
        yield from list(self.tags.items())

    def workers(self) -> list[str]:
        return []

    def held(self) -> list[Held]:
        return list(self.claimed)

    def claim(self, spot: Spot, count: int) -> list[Held]:
        taken, self.lists[spot.queue] = self.lists[spot.queue][:count], self.lists[spot.queue][count:]
        self.claimed += (found := [Held(HOLDING + spot.key, one, spot.queue) for one in taken])
        return found

    def take(self, tags: Iterable[str]) -> list[Held]:
        self.claimed += (found := [Held(UNACKED, self.tags.pop(tag), None) for tag in tags])
        return found

    def settle(self, done: Sequence[Held]) -> None:
        for one in done:
            self.claimed.remove(one)


def mover(old: Old, to: Targets, *errors: Exception | None) -> tuple[Mover, list[Message]]:
    """Return a mover over a publisher in memory; messages end in these errors, the rest is confirmed."""
    made, published = Mover(old, to, lambda _: None), list[Message]()

    def publish_all(messages: Iterable[Message], **_: object) -> Iterator[Outcome]:
        for index, one in enumerate(messages):
            published.append(one)
            yield Outcome(index, one.task_id, errors[index] if index < len(errors) else None)

    cast("Any", made)._publisher.publish_all = publish_all
    return made, published


def test_all_that_waits_is_moved_and_what_workers_hold_is_not(app: Celery) -> None:
    old = Old({"celery": [raw()] * 250, "mail": [raw()]}, [held("celery", "celery")])
    made, published = mover(old, targets(app, mail="post"))
    made.run(workers_stopped=False)
    assert Counter(one.routing_key for one in published) == {"celery": 250, "post": 1}
    assert made.result.moved == {"celery": 250, "mail": 1}
    assert (count(old, targets(app)).total, len(old.tags)) == (1, 1)


def test_when_the_workers_are_stopped_what_they_held_is_moved_too(app: Celery) -> None:
    old = Old({}, [held("celery", "celery", countdown=60), held("mails", "mail.x"), held("celery", "unbound"), b"{"])
    made, published = mover(old, targets(app))
    made.run(workers_stopped=True)
    assert [one.exchange for one in published] == [delay.EXCHANGE, "tasks"]
    assert made.result.moved == {HELD_BY_WORKERS: 2}
    assert [one["key"] for one in made.result.reasons] == ["unacked", "unacked"]
    assert len(old.tags) == 2, "what cannot be moved has been touched"


def test_a_run_publishes_first_what_a_killed_one_had_claimed(app: Celery) -> None:
    old = Old({"celery": [raw(task_id="new")]})
    old.claimed = [Held(HOLDING + "celery", raw(task_id="old"), "celery")]
    made, published = mover(old, targets(app))
    made.run(workers_stopped=False)
    assert [one.task_id for one in published] == ["old", "new"]
    assert (made.result.resumed, old.claimed) == (1, [])


class Killed(BaseException):
    """The process is gone: nothing that it would do has an effect any more."""


class Mortal(Old):
    """An old broker whose user dies at one of its steps."""

    steps = -1

    def _step(self) -> None:
        self.steps -= 1
        if self.steps == 0:
            self.steps = 1  # the next one, in a finally, too
            raise Killed

    def claim(self, spot: Spot, count: int) -> list[Held]:
        self._step()
        found = super().claim(spot, count)
        self._step()
        return found

    def take(self, tags: Iterable[str]) -> list[Held]:
        self._step()
        found = super().take(tags)
        self._step()
        return found

    def settle(self, done: Sequence[Held]) -> None:
        self._step()
        super().settle(done)
        self._step()


@pytest.mark.parametrize("step", range(1, 24))
def test_a_run_that_dies_at_any_step_loses_nothing_and_the_next_one_counts_what_may_run_twice(
    app: Celery, step: int
) -> None:
    one, mine = raw(task_id="id-0"), held("celery", "celery", task_id="id-0")
    waiting = [one.replace(b"id-0", b"id-%d" % number) for number in range(230)]
    old = Mortal({"celery": waiting}, [mine.replace(b"id-0", b"id-%d" % number) for number in range(230, 360)])
    old.steps = step
    made, published = mover(old, targets(app))
    try:
        made.run(workers_stopped=True)
    except Killed:
        old.steps = -1
        made, again = mover(old, targets(app))
        made.run(workers_stopped=True)
        published += again
    else:
        assert step > 20, "the list of steps is too short"
    times = Counter(one.task_id for one in published)
    assert len(times) == 360
    assert times.total() - 360 <= made.result.resumed
    assert (count(old, targets(app)).total, old.claimed) == (0, [])


def test_what_is_refused_stays_claimed_and_is_named_and_the_others_go_on(app: Celery) -> None:
    old = Old({"celery": [raw(task_id="big"), b"rubbish", raw(task_id="fine")]})
    made, published = mover(old, targets(app), Refused("too large"))
    made.run(workers_stopped=False)
    assert [one.task_id for one in published] == ["big", "fine"]
    assert {one["task_id"] for one in made.result.reasons} == {"big", "-"}
    assert (made.result.refused, len(old.claimed), made.result.moved) == (2, 2, {"celery": 1})


def test_a_broker_that_does_not_answer_ends_the_run_and_loses_nothing(app: Celery) -> None:
    old = Old({"celery": [raw()] * 300}, [held("celery", "celery")])
    made, _ = mover(old, targets(app), None, TimedOut("silence"))
    made.run(workers_stopped=True)
    assert "silence" in (made.result.stopped or "")
    assert len(old.claimed) + len(old.lists["celery"]) + made.result.moved.total() == 300
    assert len(old.tags) == 1


def test_queues_that_are_skipped_or_unknown_are_not_touched(app: Celery) -> None:
    old = Old({"celery": [raw()], "mail": [raw()], "other": [raw()]}, [held("mails", "mail")])
    to = targets(app, ["mail"])
    made, _ = mover(old, to)
    made.run(workers_stopped=True)
    left = count(old, to)
    assert made.result.moved == {"celery": 1}
    assert (left.waiting, left.homeless, left.unacked) == ({"other": 1}, ["other"], {})


def test_the_next_step_is_said_for_everything_that_is_left(app: Celery) -> None:
    to, none = targets(app), Result()
    assert "nothing is left" in show(none, Left(), to)
    assert "--dry-run" in show(none, Left(Counter(mail=1)), to)
    assert "--queue OLD=NEW" in show(none, Left(Counter(other=1), ["other"]), to)
    assert "SIGTERM" in show(none, Left(unacked=Counter(mail=1), workers=["192.0.2.1:5"]), to)
    assert "--workers-stopped" in show(none, Left(unacked=Counter(mail=1)), to)
    assert "took no more" in show(Result(stopped="silence"), Left(held=1), to)
    assert "refused" in show(Result(refused=1, reasons=[{"key": "k", "task_id": "t", "reason": "r"}]), Left(), to)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "amqp://192.0.2.1"], "allowed: redis://"),
        (["--from", "redis://127.0.0.1:1", "--from-options", "{}"], "the Redis broker says"),
        (["--from", "redis://127.0.0.1:1", "--from-options", "no"], "no JSON object"),
        (["--from", "redis://127.0.0.1:1", "--queue", "a"], "write OLD=NEW"),
    ],
)
def test_a_wrong_call_says_what_is_allowed(
    arguments: list[str], said: str, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.migrate.command.load_app", lambda _: app)
    monkeypatch.setattr("holdfast.migrate.old.RETRIES", {"max_retries": 1, "interval_start": 0})
    done = CliRunner().invoke(main, ["migrate-broker", "-A", "new", *arguments])
    assert done.exit_code in {1, 2}
    assert said in done.output


def test_an_application_that_is_still_on_redis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    still = Celery("still", broker="redis://192.0.2.1", set_as_current=False)
    monkeypatch.setattr("holdfast.migrate.command.load_app", lambda _: still)
    done = CliRunner().invoke(main, ["migrate-broker", "-A", "still", "--from", "redis://192.0.2.1"])
    assert done.exit_code == 1
    assert "set broker_url to RabbitMQ" in done.output

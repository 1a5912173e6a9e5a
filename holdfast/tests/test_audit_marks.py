"""The running audit without servers: which messages are noted, where, and how often."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from time import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from amqp.exceptions import NotFound
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from holdfast import audit
from holdfast.app import install
from holdfast.audit import marks, publishers, store, workers
from holdfast.audit.empty import EmptyQueues
from holdfast.audit.marks import Mark
from holdfast.outbox.send import marked
from holdfast.published import PUBLISHED_AT
from holdfast.publisher.many import _wires
from holdfast.publisher.message import Message

if TYPE_CHECKING:
    from pathlib import Path

ID = "6f1f2a4e-6f4b-4e0a-9d9e-0f3d1b5c7a11"
AT = "+1764413569.250000"
RABBITMQ, RESULTS = "amqp://nobody@127.0.0.1:1//", "redis://127.0.0.1:1/0"


class Redis:
    """Stands in for the client of the results' Redis; notes commands, or fails."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, ...]] = []
        self.error: Exception | None = None

    @property
    def client(self) -> Redis:
        return self

    def pipeline(self, **_: object) -> Redis:
        return self

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name == "confirmation":  # of a store that confirms nothing
            raise AttributeError(name)
        return lambda *args, **options: self.commands.append((name, *args, *options.values()))

    def execute(self) -> list[Any]:
        if self.error:
            raise self.error
        return []

    def added(self, kind: str) -> set[str]:
        """Return what was added to the sets of a kind."""
        begin = f"{store.PREFIX}{kind}:"
        return {
            one for name, key, *members in self.commands if name == "sadd" and key.startswith(begin) for one in members
        }


def make_app(broker: str = RABBITMQ, results: str = RESULTS, **settings: Any) -> Celery:
    app = Celery("audited", broker=broker, backend=results, set_as_current=False)
    app.conf.update(settings)
    return app


def test_the_sample_has_about_its_share_and_all_messages_of_a_task() -> None:
    ids = [str(uuid4()) for _ in range(4000)]
    chosen = [one for one in ids if marks.stamp(one, 0.25 * marks.WHOLE).startswith(marks.SIGN)]
    assert 800 < len(chosen) < 1200
    assert all(marks.stamp(one, 0.25 * marks.WHOLE).startswith(marks.SIGN) for one in chosen)
    assert not [one for one in ids if marks.stamp(one, 0).startswith(marks.SIGN)]
    assert all(marks.stamp(one, marks.WHOLE).startswith(marks.SIGN) for one in ids)


def test_a_mark_says_the_minute_in_which_the_task_is_due() -> None:
    published = float(AT)
    assert marks.of({PUBLISHED_AT: AT, "id": ID}) == Mark(int(published // 60), f"{AT} {ID}")
    due = datetime.fromtimestamp(published, timezone.utc) + timedelta(hours=1)
    for eta in (due.isoformat(), due.replace(tzinfo=None).isoformat(), due.isoformat().replace("+00:00", "Z")):
        found = marks.of({PUBLISHED_AT: AT, "id": ID, "eta": eta})
        assert found == Mark(int(published // 60) + 60, f"{AT} {ID}")
        assert (found.task_id, found.published) == (ID, published)
    past = marks.of({PUBLISHED_AT: AT, "id": ID, "eta": "2020-01-01T00:00:00+00:00"})
    assert past == Mark(int(published // 60), f"{AT} {ID}")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {PUBLISHED_AT: AT[1:], "id": ID},
        {PUBLISHED_AT: 1764413569.25, "id": ID},
        {PUBLISHED_AT: "+soon", "id": ID},
        {PUBLISHED_AT: AT, "id": 7},
        {PUBLISHED_AT: AT, "id": "two\nlines"},
        {PUBLISHED_AT: AT, "id": "a\ttab"},
        {PUBLISHED_AT: AT, "id": ID, "eta": "tomorrow"},
        {PUBLISHED_AT: AT, "id": ID, marks.AUDITED_AT: AT[1:]},
    ],
)
def test_what_is_not_of_the_sample_has_no_mark(headers: dict[str, Any]) -> None:
    assert marks.of(headers) is None


@pytest.mark.parametrize("given", [-0.1, 1.5, "half", [1]])
def test_a_wrong_share_is_refused(given: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"holdfast_audit_share is .*; allowed is"):
        audit.share(make_app(holdfast_audit_share=given))


def test_only_rabbitmq_with_results_in_redis_is_audited() -> None:
    assert audit.share(make_app(holdfast_audit_share=0.5)) == 0.5
    assert audit.share(make_app()) == 0
    assert audit.share(make_app(results="cache+memory://", holdfast_audit_share=1)) == 0
    assert audit.share(make_app(broker="redis://127.0.0.1:1/1", holdfast_audit_share=1)) == 0


def test_bulk_and_single_messages_carry_the_same_mark() -> None:
    app = install(make_app(holdfast_audit_share=1, task_create_missing_queues=True))

    @app.task(name="add", shared=False)
    def add(number: int) -> None:
        pass

    task: Any = add
    wires: list[Any] = list(_wires(app, [task.s(n) for n in range(4)]))  # the last two are made by template
    assert all(wire.mark == marks.of(Message.decode(wire).headers) is not None for wire in wires)
    assert len({wire.mark.member for wire in wires}) == 4


def test_a_message_of_the_outbox_is_marked_when_it_is_published() -> None:
    message = Message("tasks", "default", b"", "", "", {PUBLISHED_AT: "1.5", "id": ID}, {"correlation_id": ID})
    found = marks.of(marked(message, publishers.Acknowledged(make_app(), 1)).headers)
    assert found is not None
    assert found.published > time() - 60
    fallback = Message("tasks", "default", b"", "", "", {PUBLISHED_AT: AT, "id": ID}, {"correlation_id": ID})
    assert marks.of(marked(fallback, None).headers) is None


def acknowledged(redis: Redis) -> publishers.Acknowledged:
    """Return a publisher's notes without a thread."""
    notes = publishers.Acknowledged(SimpleNamespace(backend=redis), 1)  # type: ignore[arg-type]  # all that it asks for
    notes._pid = os.getpid()
    return notes


def mark(task_id: str = ID, at: float | None = None) -> Mark:
    found = marks.made(f"+{time() if at is None else at:.6f}", task_id)
    assert found is not None
    return found


def test_a_publisher_tries_again_and_writes_no_note_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    redis = Redis()
    notes = acknowledged(redis)
    first, late = mark(), mark("late", time() - publishers.OLD - 1)
    notes.add(first)
    notes.add(late)
    notes.write()
    assert redis.added("acked") == {first.member}
    second = mark("second")
    notes.add(second)
    for _ in range(2):
        redis.error, redis.commands = ConnectionResetError(), []
        notes.write()
    redis.error, redis.commands = None, []
    notes.write()
    assert redis.added("acked") == {second.member}
    redis.error, redis.commands = ConnectionResetError(), []
    notes.add(mark("third"))
    notes.write()
    monkeypatch.setattr(publishers, "OLD", 0.0)  # the outage is too long
    redis.error, redis.commands = None, []
    notes.write()
    assert redis.commands == []


def test_a_forked_child_writes_no_note_of_its_parent() -> None:
    redis = Redis()
    notes = acknowledged(redis)
    notes.add(mark("of the parent"))
    notes._pid = 0  # as in a child
    notes._run = lambda: None  # type: ignore[method-assign]  # no thread
    notes.add(mark("of the child"))
    notes.write()
    assert [one.partition(" ")[2] for one in redis.added("acked")] == ["of the child"]


def followed(notes: workers.Ended, **headers: Any) -> Any:
    """Return a message that a worker has received."""
    settled: list[Any] = []
    message = SimpleNamespace(
        headers={PUBLISHED_AT: f"+{time():.6f}", "id": str(uuid4()), **headers},
        properties={},
        queue="default",
        ack=lambda *_args, **_options: settled.append("ack"),
        reject=lambda requeue=False: settled.append(("reject", requeue)),
        settled=settled,
    )
    notes.follow(message)
    return message


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def notes(redis: Redis, tmp_path: Path) -> workers.Ended:
    return workers.Ended(SimpleNamespace(backend=redis), tmp_path / "audit")  # type: ignore[arg-type]  # as above


def member(message: Any) -> str:
    found = marks.of(message.headers)
    assert found is not None
    return found.member


def test_a_worker_notes_what_it_settles_and_not_what_goes_back(notes: workers.Ended, redis: Redis) -> None:
    done, dead, back, again = (
        followed(notes),
        followed(notes),
        followed(notes),
        followed(notes, **{"x-delivery-count": 2}),
    )
    done.ack()
    dead.reject()
    back.reject(requeue=True)
    assert [one.settled for one in (done, dead, back)] == [["ack"], [("reject", False)], [("reject", True)]]
    notes.send()
    assert redis.added("ended") == {member(done), member(dead)}
    assert redis.added("returned") == {member(again)}


def test_notes_wait_for_a_store_that_is_away(notes: workers.Ended, redis: Redis) -> None:
    message = followed(notes)
    message.ack()
    redis.error = ConnectionResetError()
    notes.send()
    redis.error, redis.commands = None, []
    notes.send()
    assert redis.added("ended") == {member(message)}
    notes.stop()
    assert not list(notes._folder.iterdir())


def test_another_worker_sends_what_a_killed_one_has_left(notes: workers.Ended, redis: Redis, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # a worker with a lock of its own, which is killed after the note
        try:
            killed = workers.Ended(notes._app, tmp_path / "audit")
            followed(killed, id="of-the-killed").ack()
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    notes.send()
    assert [one.partition(" ")[2] for one in redis.added("ended")] == ["of-the-killed"]
    assert len(list(notes._folder.glob("*.owner"))) == 1, "its own"


def test_nobody_sends_the_files_of_a_worker_that_lives(notes: workers.Ended, redis: Redis, tmp_path: Path) -> None:
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            other = workers.Ended(notes._app, tmp_path / "audit")
            followed(other).ack()
            os.write(ready[1], b".")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    notes.send()
    os.write(done[1], b".")
    os.waitpid(child, 0)
    assert redis.added("ended") == set()


def test_a_line_that_a_full_disk_has_cut_off_hides_no_other(notes: workers.Ended, redis: Redis) -> None:
    message = followed(notes)
    os.write(notes._file, b"ended\t12\n")
    message.ack()
    notes.send()
    assert redis.added("ended") == {member(message)}


def test_a_discarded_letter_is_not_missed(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RedisBackend", Redis)
    app: Any = SimpleNamespace(backend=redis)
    audit.discarded(app, {"id": ID})
    assert redis.commands == [], "it is not of the sample"
    audit.discarded(app, {PUBLISHED_AT: AT, "id": ID})
    assert redis.added("ended") == {f"{AT} {ID}"}
    redis.error = ConnectionResetError()
    audit.discarded(app, {PUBLISHED_AT: AT, "id": ID})  # it is discarded all the same


class Broker:
    """Stands in for a connection of kombu; says of each queue how many messages and consumers it has."""

    transport = None
    connected = False

    def __init__(self, **queues: tuple[int, int]) -> None:
        self.queues = queues
        self.opened = 0

    def connect(self) -> None:
        self.opened += 1
        self.connected = True

    def channel(self) -> Broker:
        assert self.connected
        return self

    def close(self) -> None:
        pass

    def release(self) -> None:
        self.connected = False

    def queue_declare(self, name: str, passive: bool) -> Any:
        assert passive
        if name == "broken":
            raise ConnectionResetError
        if name not in self.queues:
            raise NotFound
        ready, consumers = self.queues[name]
        return SimpleNamespace(message_count=ready, consumer_count=consumers)


def looked(redis: Redis, broker: Broker, *queues: str) -> EmptyQueues:
    """Return what asks a broker for these queues."""
    amqp = SimpleNamespace(queues=SimpleNamespace(consume_from=dict.fromkeys(queues)))
    app: Any = SimpleNamespace(backend=redis, amqp=amqp, connection_for_read=lambda: broker)
    return EmptyQueues(app)


def test_a_worker_notes_which_of_its_queues_are_empty(redis: Redis) -> None:
    broker = Broker(empty=(0, 2), full=(3, 2), away=(0, 0), other=(0, 1))
    began = time()
    looking = looked(redis, broker, "nowhere", "empty", "full", "away")
    looking.look()
    ((name, key, found, later_only),) = redis.commands
    assert (name, key, later_only) == ("zadd", store.EMPTY, True)
    assert list(found) == ["empty"]
    assert began <= found["empty"] <= time()
    looking.look()
    assert (broker.opened, broker.connected) == (1, True), "one connection for all looks"


def test_a_broker_that_goes_away_is_asked_over_a_new_connection(redis: Redis) -> None:
    broker = Broker(empty=(0, 1))
    looking = looked(redis, broker, "empty", "broken")
    with pytest.raises(ConnectionResetError):
        looking.look()
    assert (broker.opened, broker.connected, redis.commands) == (1, False, [])
    with pytest.raises(ConnectionResetError):
        looking.look()
    assert broker.opened == 2

"""What the outbox promises on every database; the test modules run it on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import relay_process
from celery import Celery, chord, group
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from holdfast import outbox
from holdfast.outbox import rows, store
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.relay import Relay
from holdfast.outbox.table import outbox as table
from holdfast.outbox.workflow import Workflow
from holdfast.publisher import Message, NotAcknowledged, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

app = Celery("contract", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(name="add", shared=False)
def add(x: int, y: int) -> int:
    """Add."""
    return x + y


@app.task(name="total", shared=False)
def total(values: list[int]) -> int:
    """Sum up."""
    return sum(values)


def relay_over(engine: Engine, send: Callable[[Message], NotAcknowledged | None], batch: int = 500) -> Relay:
    """A relay whose broker is a function: what it returns for a message is the outcome."""

    def send_all(messages: Sequence[Message]) -> list[NotAcknowledged | None]:
        return [send(message) for message in messages]

    rows = store.EngineRows(engine)

    return Relay(app, rows, send_all, Metrics(rows, patience=60), batch=batch)


def add_rows(engine: Engine, count: int) -> list[str]:
    """Enqueue tasks, one transaction for all."""
    with Session(engine) as session, session.begin():
        return [outbox.enqueue(session, add.s(n, n)) for n in range(count)]


def waiting(engine: Engine) -> int:
    """How many rows there are."""
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def make_due(engine: Engine) -> None:
    """Let the time pass that a row has to wait."""
    with engine.begin() as connection:
        connection.execute(table.update().values(not_before=None))


class OutboxContract:
    """Needs a fixture ``engine`` with empty tables."""

    def test_a_row_lives_and_dies_with_the_business_transaction(self, engine: Engine) -> None:
        with Session(engine) as session:
            outbox.enqueue(session, add.s(1, 2))
            session.rollback()
        assert waiting(engine) == 0
        with Session(engine) as session:
            outbox.enqueue(session, add.s(1, 2))
            session.commit()
        assert waiting(engine) == 1

    def test_a_core_connection_will_do(self, engine: Engine) -> None:
        with engine.begin() as connection:
            outbox.enqueue(connection, add.s(1, 2))
        assert waiting(engine) == 1

    def test_rows_are_published_in_order_and_deleted(self, engine: Engine) -> None:
        ids = add_rows(engine, 30)
        seen: list[str | None] = []
        relay = relay_over(engine, lambda message: seen.append(message.task_id), batch=20)
        assert (relay.once().published, relay.once().published, relay.once().published) == (20, 10, 0)
        assert seen == ids
        assert waiting(engine) == 0

    def test_a_claimed_row_belongs_to_one_relay_until_its_lease_ends(self, engine: Engine) -> None:
        add_rows(engine, 3)
        with engine.begin() as connection:
            assert len(store.claim(connection, 2, lease=3600)) == 2
        with engine.begin() as connection:
            assert len(store.claim(connection, 2, lease=-1)) == 1
        with engine.begin() as connection:
            assert len(store.claim(connection, 5, lease=3600)) == 1

    def test_a_failing_row_stays_and_blocks_no_other(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("random.uniform", lambda *_: 600.0)  # a slow machine takes the usual second or two, too
        ids = add_rows(engine, 3)
        relay = relay_over(engine, lambda m: Unreachable("cluster is down") if m.task_id == ids[1] else None)
        done = relay.once()
        assert (done.published, done.kept) == (2, 1)
        with engine.connect() as connection:
            row = connection.execute(select(table)).one()
        assert row.task_id == ids[1]
        assert (row.attempts, row.refusals, row.parked_at) == (1, 0, None)
        assert "cluster is down" in row.error
        assert row.not_before > row.created_at
        assert relay.once().kept == 0, "it has to wait before the next attempt"
        make_due(engine)
        assert relay_over(engine, lambda _: None).once().published == 1

    def test_an_outage_never_parks_a_row(self, engine: Engine) -> None:
        add_rows(engine, 1)
        relay = relay_over(engine, lambda _: Unreachable("cluster is down"))
        for _ in range(rows.PARK_AFTER * 2):
            make_due(engine)
            relay.once()
        with engine.connect() as connection:
            assert store.backlog(connection).parked == 0

    def test_a_row_that_is_refused_again_and_again_is_parked_until_released(self, engine: Engine) -> None:
        ids = add_rows(engine, 2)
        relay = relay_over(engine, lambda m: Refused("too large") if m.task_id == ids[0] else None)
        for _ in range(rows.PARK_AFTER):
            make_due(engine)
            relay.once()
        with engine.begin() as connection:
            backlog = store.backlog(connection)
            assert (backlog.waiting, backlog.parked) == (0, 1)
            (row,) = store.parked(connection)
            assert (row.task_id, row.attempts) == (ids[0], rows.PARK_AFTER)
            assert "too large" in (row.error or "")
            assert store.find(connection, ids[0]) == row
            assert store.find(connection, ids[1]) is None
        make_due(engine)
        assert relay.once().kept == 0
        with engine.begin() as connection:
            assert store.release(connection, [row.id]) == 1
        assert relay_over(engine, lambda _: None).once().published == 1

    def test_a_parked_row_can_be_discarded_and_no_other(self, engine: Engine) -> None:
        add_rows(engine, 2)
        with engine.begin() as connection:
            first, second = store.claim(connection, 2, lease=60)
            connection.execute(table.update().where(table.c.id == first.id).values(parked_at=first.created_at))
            assert store.discard(connection, [first.id, second.id]) == 1
        assert waiting(engine) == 1

    def test_a_row_that_cannot_be_read_is_kept_as_refused(self, engine: Engine) -> None:
        add_rows(engine, 2)
        with engine.begin() as connection:
            connection.execute(table.update().where(table.c.id == 1).values(workflow="{}"))
        done = relay_over(engine, lambda _: None).once()
        assert (done.published, done.kept) == (1, 1)
        with engine.connect() as connection:
            assert connection.execute(select(table.c.refusals)).scalar_one() == 1

    def test_a_group_is_one_row_and_only_its_missing_messages_are_repeated(self, engine: Engine) -> None:
        with Session(engine) as session, session.begin():
            outbox.enqueue(session, group(add.s(n, n) for n in range(4)))
        assert waiting(engine) == 1
        sent: list[str | None] = []

        def refuse_third(message: Message) -> NotAcknowledged | None:
            sent.append(message.task_id)
            return Unreachable("gone") if len(sent) == 3 else None

        relay = relay_over(engine, refuse_third)
        assert relay.once().kept == 1
        make_due(engine)
        assert relay.once().published == 1
        assert sent == [*sent[:4], sent[2]], "the third one again, under the same id, and nothing else"

    def test_a_chord_is_announced_to_the_result_store_first_and_once(self, engine: Engine) -> None:
        with Session(engine) as session, session.begin():
            outbox.enqueue(session, chord([add.s(1, 1), add.s(2, 2)], total.s()))
        with engine.connect() as connection:
            workflow = Workflow.loads(connection.execute(select(table.c.workflow)).scalar_one())
        assert [call[0] for call in workflow.chords] == ["apply_chord", "set_chord_size"]
        backend = app.backend
        heard: list[object] = []
        for name in ("apply_chord", "set_chord_size"):
            setattr(backend, name, lambda *args, _name=name, **_kw: heard.append((_name, args[-1])))
        try:
            relay = relay_over(
                engine, lambda m: heard.append(m.headers["task"]) if len(heard) < 3 else Unreachable("x")
            )
            relay.once()
            make_due(engine)
            relay_over(engine, lambda m: heard.append(m.headers["task"])).once()
        finally:
            del backend.apply_chord, backend.set_chord_size
        assert [entry[0] if isinstance(entry, tuple) else entry for entry in heard] == [
            "apply_chord",
            "set_chord_size",
            "add",
            "add",
        ]
        assert waiting(engine) == 0

    def test_the_fallback_stores_what_delay_could_not_publish(self, engine: Engine) -> None:
        message = Message("tasks", "default", b"[[], {}, {}]", "application/json", "utf-8", {"task": "add"}, {})
        message.properties["correlation_id"] = "some-id"
        outbox.fallback(engine.begin)(message)
        seen: list[Message] = []
        relay_over(engine, seen.append).once()
        assert seen == [message]

    def test_the_backlog_and_its_age_are_exported(self, engine: Engine) -> None:
        registry = CollectorRegistry()
        registry.register(Metrics(store.EngineRows(engine), patience=60))
        assert registry.get_sample_value("holdfast_outbox_waiting_rows") == 0
        assert registry.get_sample_value("holdfast_outbox_oldest_age_seconds") == 0
        add_rows(engine, 2)
        with engine.begin() as connection:
            first = store.claim(connection, 1, lease=60)[0]
            earlier = first.created_at - timedelta(days=365)
            connection.execute(table.update().where(table.c.id == first.id).values(created_at=earlier))
        assert registry.get_sample_value("holdfast_outbox_waiting_rows") == 2
        age = registry.get_sample_value("holdfast_outbox_oldest_age_seconds")
        assert age is not None
        assert age > 364 * 24 * 3600

    @pytest.mark.parametrize("step", relay_process.STEPS)
    def test_nothing_is_lost_when_the_relay_is_killed(self, engine: Engine, tmp_path: Path, step: str) -> None:
        ids = add_rows(engine, 8)
        log = tmp_path / "published"
        victim = start_relay(engine, log, step)
        assert victim.stdout is not None
        assert victim.stdout.readline() == f"{step}\n"
        victim.kill()
        victim.wait()
        assert waiting(engine) == (0 if step == "settled" else 8)
        assert start_relay(engine, log, "none").wait(timeout=120) == 0
        published = Counter(line.split()[0] for line in log.read_text().splitlines())
        assert set(published) == set(ids)
        assert waiting(engine) == 0
        repeated = {"half published": 4, "published": 8, "settling": 8}.get(step, 0)
        assert published.total() == len(ids) + repeated, "at least once, and once where nothing was published before"

    def test_two_relays_share_the_work(self, engine: Engine, tmp_path: Path) -> None:
        ids = add_rows(engine, 400)
        log = tmp_path / "published"
        relays = [start_relay(engine, log, "none") for _ in range(2)]
        assert [relay.wait(timeout=120) for relay in relays] == [0, 0]
        lines = [line.split() for line in log.read_text().splitlines()]
        assert sorted(task_id for task_id, _ in lines) == sorted(ids), "each row once"
        assert waiting(engine) == 0


class SkipLockedContract:
    """What databases with row locks do besides."""

    def test_a_relay_does_not_wait_for_rows_that_another_one_is_claiming(self, engine: Engine) -> None:
        add_rows(engine, 4)
        with engine.begin() as first, engine.begin() as second:
            mine = {row.id for row in store.claim(first, 2, lease=60)}
            others = {row.id for row in store.claim(second, 10, lease=60)}
        assert (len(mine), len(others)) == (2, 2)
        assert not mine & others


def start_relay(engine: Engine, log: Path, step: str) -> subprocess.Popen[str]:
    """Start relay_process.py."""
    url = engine.url.render_as_string(hide_password=False)
    return subprocess.Popen(
        [sys.executable, relay_process.__file__, url, str(log), step], stdout=subprocess.PIPE, text=True
    )


def clear(engine: Engine) -> None:
    """Make the tables, empty, with ids that start anew."""
    outbox.metadata.drop_all(engine)
    outbox.metadata.create_all(engine)

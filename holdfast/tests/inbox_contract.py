"""What the inbox promises on every database; the test modules run it on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from functools import partial

import inbox_process
import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from holdfast import inbox

metadata = MetaData()
booking = Table(
    "booking",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(50), unique=True, nullable=False),
)


def clear(engine: Engine) -> None:
    """Make the tables, empty."""
    for tables in (metadata, inbox.metadata):
        tables.drop_all(engine)
        tables.create_all(engine)


def bookings(engine: Engine) -> int:
    """How often the effect is in the database."""
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(booking)).scalar_one()


def book(session: Session, name: str | None = None) -> dict[str, object]:
    """The effect: a row, and a result."""
    number = session.execute(insert(booking).values(name=name).returning(booking.c.id)).scalar_one()
    return {"number": number, "by": os.getpid()}


class InboxContract:
    """Needs a fixture ``engine`` with empty tables."""

    def test_a_repeat_returns_the_stored_result_and_does_nothing(self, engine: Engine) -> None:
        results: list[dict[str, object]] = []
        for _ in range(3):
            with Session(engine) as session, session.begin():
                results.append(inbox.once(session, "task-1", partial(book, session, f"guest {len(results)}")))
        assert results == [results[0]] * 3
        assert bookings(engine) == 1

    @pytest.mark.parametrize("result", [None, 0, "text", [1, {"a": None}], True])
    def test_every_json_value_comes_back(self, engine: Engine, result: object) -> None:
        for _ in range(2):
            with Session(engine) as session, session.begin():
                assert inbox.once(session, "task-1", lambda: result) == result

    def test_keys_are_independent_and_steps_of_a_task_too(self, engine: Engine) -> None:
        keys: list[str | tuple[str, ...]] = ["a", "b", ("a", "b"), ("a", "c"), ("a/b",), ("a", "b/c"), ("a", "b", "c")]
        with Session(engine) as session, session.begin():
            assert [inbox.once(session, key, partial(int, n)) for n, key in enumerate(keys)] == [*range(len(keys))]

    def test_a_rollback_takes_the_key_back_with_the_effect(self, engine: Engine) -> None:
        with Session(engine) as session:
            inbox.once(session, "task-1", lambda: book(session, "guest"))
            session.rollback()
        assert bookings(engine) == 0
        with Session(engine) as session, session.begin():
            inbox.once(session, "task-1", lambda: book(session, "guest"))
        assert bookings(engine) == 1

    def test_a_failed_effect_is_undone_even_when_the_caller_commits_the_rest(self, engine: Engine) -> None:
        def fail() -> None:
            book(session, "undone")
            book(session, None)

        with Session(engine) as session, session.begin():
            book(session, "rest")
            with pytest.raises(IntegrityError):
                inbox.once(session, "task-1", fail)
        assert bookings(engine) == 1
        with Session(engine) as session, session.begin():
            assert inbox.once(session, "task-1", lambda: "second try") == "second try"

    def test_a_result_that_is_no_json_is_refused_and_the_effect_undone(self, engine: Engine) -> None:
        with Session(engine) as session, session.begin(), pytest.raises(TypeError):
            inbox.once(session, "task-1", lambda: (book(session, "guest"), {1, 2})[1])
        assert bookings(engine) == 0

    @pytest.mark.parametrize("key", ["", "x" * 256])
    def test_a_key_that_does_not_fit_is_refused(self, engine: Engine, key: str) -> None:
        with Session(engine) as session, pytest.raises(ValueError, match="1 to 255 are allowed"):
            inbox.once(session, key, lambda: None)

    def test_pruning_forgets_only_what_is_old(self, engine: Engine) -> None:
        with Session(engine) as session, session.begin():
            inbox.once(session, "old", lambda: 1)
            assert inbox.prune(session, timedelta(hours=1)) == 0
            assert inbox.once(session, "old", lambda: 2) == 1
            assert inbox.prune(session, timedelta(0)) == 1
            assert inbox.once(session, "old", lambda: 3) == 3

    @pytest.mark.parametrize("commit", [True, False])
    def test_a_twin_waits_for_the_first_and_then_follows_its_outcome(self, engine: Engine, commit: bool) -> None:
        inside, go, results = threading.Event(), threading.Event(), {}

        def first() -> None:
            with Session(engine) as session:

                def effect() -> str:
                    inside.set()
                    assert go.wait(30)
                    return "first"

                results["first"] = inbox.once(session, "task-1", effect)
                session.commit() if commit else session.rollback()

        def second() -> None:
            with Session(engine) as session, session.begin():
                results["second"] = inbox.once(session, "task-1", lambda: "second")

        threads = [threading.Thread(target=first), threading.Thread(target=second)]
        threads[0].start()
        assert inside.wait(30)
        threads[1].start()
        threads[1].join(0.5)
        assert threads[1].is_alive(), "the twin has to wait while the outcome is open"
        go.set()
        for thread in threads:
            thread.join(30)
        assert results == {"first": "first", "second": "first" if commit else "second"}

    def test_processes_that_race_for_the_same_keys_run_each_effect_once(self, engine: Engine) -> None:
        url = engine.url.render_as_string(hide_password=False)
        racers = [
            subprocess.Popen(
                [sys.executable, inbox_process.__file__, url, "40"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        answers = {racer.communicate("go\n", timeout=120)[0] for racer in racers}
        assert len(answers) == 1, "everybody got the same forty results"
        assert bookings(engine) == 40

    def test_a_process_that_is_killed_in_the_effect_leaves_the_key_free(self, engine: Engine) -> None:
        url = engine.url.render_as_string(hide_password=False)
        victim = subprocess.Popen(
            [sys.executable, inbox_process.__file__, url, "hang"], stdout=subprocess.PIPE, text=True
        )
        assert victim.stdout is not None
        assert victim.stdout.readline() == "in the effect\n"
        victim.kill()
        victim.wait()
        with Session(engine) as session, session.begin():
            assert inbox.once(session, "key 0", lambda: "again") == "again"
        assert bookings(engine) == 0

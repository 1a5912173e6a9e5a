"""With ``task_always_eager`` an enqueued task runs after the commit, in the process that enqueued it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, chain, chord, group
from sqlalchemy import Engine, create_engine, func, insert, select
from sqlalchemy.orm import Session

from holdfast import outbox
from holdfast.app import install
from holdfast.outbox.table import outbox as table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

app = install(Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False))
app.conf.update(task_always_eager=True, task_eager_propagates=True, task_store_eager_result=True)
ran: list[Any] = []


@app.task(name="eager.note", shared=False)
def note(value: Any, look: Callable[[], Any] | None = None) -> Any:
    ran.append(look() if look else value)
    return value


@app.task(name="eager.fail", shared=False)
def fail() -> None:
    raise LookupError("nothing there")


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.sqlite3")
    outbox.metadata.create_all(engine)
    return engine


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def business(session: Session) -> None:
    values = {"task_id": "b", "task": "business", "workflow": "{}", "created_at": func.current_timestamp()}
    session.execute(insert(table).values(values))


def test_it_runs_after_the_commit_and_sees_what_was_committed(engine: Engine) -> None:
    with Session(engine) as session:
        with session.begin():
            business(session)
            outbox.enqueue(session, note.s(1, lambda: rows(engine)))
            assert ran == []
        assert ran == [1], "the business row, and none of the outbox"
        with session.begin():
            outbox.enqueue(session, note.s(2))
        assert ran == [1, 2]


def test_a_rollback_drops_it(engine: Engine) -> None:
    with Session(engine) as session:
        outbox.enqueue(session, note.s(1))
        session.rollback()
        outbox.enqueue(session, note.s(2))
        session.commit()
    with Session(engine) as session:
        outbox.enqueue(session, note.s(3))
    assert ran == [2]


def test_a_savepoint_drops_only_its_own(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        outbox.enqueue(session, note.s(1))
        with session.begin_nested() as outer:
            outbox.enqueue(session, note.s(2))
            with session.begin_nested():
                outbox.enqueue(session, note.s(3))
            assert ran == []
            outer.rollback()
        with session.begin_nested():
            outbox.enqueue(session, note.s(4))
        assert ran == []
    assert ran == [1, 4]


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        (note.si(1), [1]),
        (chain(note.si(1), note.si(2)), [1, 2]),
        (group(note.si(1), note.si(2)), [1, 2]),
        (chord([note.si(1), note.si(2)], note.s()), [1, 2, [1, 2]]),
    ],
    ids=["task", "chain", "group", "chord"],
)
def test_a_canvas_runs_and_its_result_has_the_id(engine: Engine, signature: Any, expected: list[Any]) -> None:
    before = dict(signature)
    with Session(engine) as session, session.begin():
        result = outbox.enqueue(session, signature)
    assert ran == expected
    assert signature == before
    if "group" not in str(signature.get("task")):
        assert app.AsyncResult(result).get() == expected[-1]


def test_an_error_reaches_who_commits(engine: Engine) -> None:
    with Session(engine) as session:
        business(session)
        outbox.enqueue(session, fail.s())
        with pytest.raises(LookupError):
            session.commit()
    assert rows(engine) == 1


def test_a_bare_connection_is_refused(engine: Engine) -> None:
    with engine.begin() as connection, pytest.raises(TypeError, match=r"task_always_eager.*Enqueue with a Session"):
        outbox.enqueue(connection, note.s(1))

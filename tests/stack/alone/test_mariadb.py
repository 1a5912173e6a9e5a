"""The outbox and the inbox on MariaDB."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import inbox_contract
import outbox_contract
import pytest
from click.testing import CliRunner
from inbox_contract import InboxContract
from outbox_contract import OutboxContract, SkipLockedContract, add_rows
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from holdfast import inbox
from holdfast.cli import main
from holdfast.outbox import store
from holdfast.outbox.cli import open_engine
from holdfast.outbox.table import outbox as table

from ..mariadb import scratch_database, server

if TYPE_CHECKING:
    from collections.abc import Iterator

# needs the engine; long: what these tests ask is asked of SQLite and PostgreSQL, too
pytestmark = [pytest.mark.stack, pytest.mark.long]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server."""
    with server() as url:
        yield url


class TestOutboxOnMariaDB(OutboxContract, SkipLockedContract):
    """All of the contract, and what only this database does."""

    @pytest.fixture
    def engine(self, url: str) -> Iterator[Engine]:
        """A database of its own, opened as the relay opens it."""
        with scratch_database(url) as owner:
            engine = open_engine(owner.url.render_as_string(hide_password=False))
            outbox_contract.clear(engine)
            yield engine
            engine.dispose()

    def test_an_application_can_enqueue_while_a_relay_claims(self, engine: Engine) -> None:
        add_rows(engine, 2)
        with engine.begin() as relay:
            store.claim(relay, 10, lease=60)
            with engine.begin() as application:
                application.execute(text("SET innodb_lock_wait_timeout = 1"))
                store.enqueue(application, outbox_contract.add.s(1, 1))
        with engine.connect() as connection:
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 3

    def test_times_keep_their_microseconds_and_their_zone(self, engine: Engine) -> None:
        add_rows(engine, 1)
        at = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=5)))
        with engine.begin() as connection:
            connection.execute(table.update().values(not_before=at))
            assert connection.execute(select(table.c.not_before)).scalar_one() == at

    def test_a_workflow_may_be_as_large_as_a_message(self, engine: Engine) -> None:
        with Session(engine) as session, session.begin():
            store.enqueue(session, outbox_contract.add.s("x" * 1_000_000, "ü€𝄞"))
        with engine.begin() as connection:
            assert len(store.claim(connection, 1, lease=60)[0].workflow) > 1_000_000

    def test_the_command_asks_it_with_the_url_of_an_asyncio_application(self, engine: Engine) -> None:
        add_rows(engine, 3)
        asyncio = engine.url.set(drivername="mysql+aiomysql").render_as_string(hide_password=False)
        said = CliRunner().invoke(main, ["outbox", "--database-url", asyncio, "status"]).output
        assert '"waiting": 3' in said


class TestInboxOnMariaDB(InboxContract):
    """All of the contract, and what only this database does."""

    @pytest.fixture
    def engine(self, url: str) -> Iterator[Engine]:
        """A database of its own."""
        with scratch_database(url) as engine:
            inbox_contract.clear(engine)
            yield engine

    def test_keys_that_a_collation_calls_equal_are_different(self, engine: Engine) -> None:
        keys = ["key", "KEY", "key ", "kéy", "k" * 255, "𝄞" * 255]
        with Session(engine) as session, session.begin():
            assert [inbox.once(session, key, partial(int, n)) for n, key in enumerate(keys)] == [*range(len(keys))]

    def test_a_large_result_comes_back(self, engine: Engine) -> None:
        for _ in range(2):
            with Session(engine) as session, session.begin():
                assert inbox.once(session, "task-1", lambda: "x" * 100_000) == "x" * 100_000

    def test_a_repeat_finds_the_result_that_was_committed_after_its_first_read(self, engine: Engine) -> None:
        with Session(engine) as early, early.begin():
            early.execute(select(inbox.inbox)).all()  # with REPEATABLE READ, its snapshot
            with Session(engine) as other, other.begin():
                inbox.once(other, "task-1", lambda: "other")
            assert inbox.once(early, "task-1", lambda: "early") == "other"

    def test_lock_wait_timeout_limits_how_long_a_twin_waits(self, engine: Engine) -> None:
        with Session(engine) as first, Session(engine) as second:
            inbox.once(first, "task-1", lambda: "first")
            second.execute(text("SET innodb_lock_wait_timeout = 1"))
            with pytest.raises(OperationalError, match="Lock wait timeout"):
                inbox.once(second, "task-1", lambda: "second")
            second.rollback()
            first.commit()
            assert inbox.once(second, "task-1", lambda: "second") == "first"

    def test_of_those_that_wait_for_a_call_that_is_rolled_back_one_runs_its_effect(self, engine: Engine) -> None:
        effects: list[int] = []
        results: list[Any] = []

        def effect(number: int) -> int:
            effects.append(number)
            return number

        def twin(number: int) -> None:
            try:
                with Session(engine) as session, session.begin():
                    results.append(inbox.once(session, "task-1", lambda: effect(number)))
            except OperationalError:  # the server ended it to break a deadlock
                results.append(None)

        with Session(engine) as first:
            inbox.once(first, "task-1", lambda: "first")
            twins = [threading.Thread(target=twin, args=(number,)) for number in range(4)]
            for one in twins:
                one.start()
            twins[0].join(1)  # they wait for the first one
            first.rollback()
        for one in twins:
            one.join(60)
        assert len(results) == 4
        assert len(effects) == 1
        assert set(results) <= {effects[0], None}

"""The relay: rows deleted are exactly the rows acknowledged, and the process around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, chord, group
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from outbox_contract import add, add_rows, app, clear, make_due, relay_over, total, waiting
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError
from sqlalchemy import Engine, create_engine, make_url, select
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from holdfast import outbox
from holdfast.cli import main
from holdfast.outbox import rows, send, store
from holdfast.outbox.cli import open_engine
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.table import outbox as table
from holdfast.outbox.workflow import Workflow
from holdfast.publisher import Message, Nacked, NotAcknowledged, Refused, TimedOut, delay
from holdfast.results import ResultRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OUTCOMES: list[NotAcknowledged | None] = [None, None, Nacked("full"), Refused("too large"), TimedOut("silence")]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database file of its own."""
    engine = create_engine(f"sqlite:///{tmp_path}/outbox.sqlite3")
    clear(engine)
    yield engine
    engine.dispose()


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 4), max_size=6), data=st.data())
def test_what_is_deleted_is_what_was_acknowledged(sizes: list[int], data: st.DataObject) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    clear(engine)
    with Session(engine) as session, session.begin():
        for size in sizes:
            outbox.enqueue(session, group(add.s(n, n) for n in range(size)))
    pending = {m.task_id for workflow in stored(engine) for m in workflow.messages}
    acknowledged: set[str | None] = set()

    def publish(message: Message) -> NotAcknowledged | None:
        assert message.task_id not in acknowledged, "an acknowledged message is not sent again"
        outcome = data.draw(st.sampled_from(OUTCOMES))
        if outcome is None:
            acknowledged.add(message.task_id)
        return outcome

    relay = relay_over(engine, publish)
    for _ in range(3):
        make_due(engine)
        relay.once()
        kept = {m.task_id for workflow in stored(engine) for m in workflow.messages}
        assert kept == pending - acknowledged
    engine.dispose()


def stored(engine: Engine) -> list[Workflow]:
    """What the rows hold."""
    with engine.connect() as connection:
        return [Workflow.loads(text) for text in connection.scalars(select(table.c.workflow))]


def test_waits_grow_and_stay_below_their_limits(engine: Engine) -> None:
    add_rows(engine, 1)
    with engine.begin() as connection:
        (row,) = store.claim(connection, 1, lease=60)

    def wait(attempts: int, refused: bool) -> float:
        with engine.begin() as connection:
            before = replace(row, attempts=attempts, refusals=attempts if refused else 0)
            store.postpone(connection, before, rows.Failure("x", refused=refused))
            until = connection.execute(select(table.c.not_before)).scalar_one()
        return float((until - rows.now()).total_seconds())

    for refused, limit in ((False, rows.OUTAGE_WAIT), (True, rows.REFUSED_WAIT)):
        assert 0.5 < wait(0, refused) <= 2
        assert limit / 2 - 1 < wait(50, refused) <= limit


def test_a_broker_without_confirms_gets_the_same_messages() -> None:
    virtual = Celery("virtual", broker="memory://relay-test", set_as_current=False)
    virtual.conf.broker_transport_options = {"polling_interval": 0.01}

    @virtual.task(name="add", shared=False)
    def task(x: int, y: int) -> int:
        return x + y

    engine = create_engine("sqlite://", poolclass=StaticPool)
    clear(engine)
    with engine.begin() as connection:
        task_id = outbox.enqueue(connection, task.s(1, 2).set(expires=60))
        message = store.claim(connection, 1, lease=1)[0]
    assert send.sender(virtual)(Workflow.loads(message.workflow).messages) == [None]
    with virtual.connection_for_read() as broker:
        received = virtual.amqp.queues["celery"](broker.default_channel).get(no_ack=True)
    assert received is not None
    assert received.headers["id"] == task_id
    assert received.payload[0] == [1, 2]
    assert received.properties["expiration"] == "60000"


def test_a_broker_that_is_away_is_no_refusal() -> None:
    away = Celery("away", broker="redis://127.0.0.1:1/0", set_as_current=False)
    away.conf.broker_transport_options = {"socket_connect_timeout": 1}
    (error,) = send.sender(away)([Message("celery", "celery", b"[]", "application/json", "utf-8", {"task": "x"}, {})])
    assert isinstance(error, NotAcknowledged)
    assert error.retryable


def test_operators_list_release_and_discard(engine: Engine) -> None:
    ids = add_rows(engine, 2)
    with engine.begin() as connection:
        connection.execute(table.update().values(parked_at=rows.now(), error="Refused: too large", attempts=10))
    url = str(engine.url)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["outbox", "--database-url", url, *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert json.loads(run("status")) == {"waiting": 0, "oldest": None, "parked": 2}
    first, second = run("list").splitlines()
    assert first.startswith("1  ")
    assert "Refused: too large" in second
    assert json.loads(run("list", "--json").splitlines()[0])["workflow"]["task_id"] == ids[0]
    assert run("release", "1") == "1 released.\n"
    assert run("discard", "2", "--yes") == "1 discarded.\n"
    assert json.loads(run("status"))["waiting"] == 1


def test_a_missing_table_is_named_with_the_next_step(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["outbox", "--database-url", f"sqlite:///{tmp_path}/empty.sqlite3", "status"])
    assert result.exit_code == 1
    assert "no such table: holdfast_outbox" in result.output
    assert "create_all" in result.output


APP = """
from celery import Celery
app = Celery("relayed", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": "in", "data_folder_out": "in", "control_folder": "control"}
"""


@pytest.fixture
def process(engine: Engine, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``holdfast relay`` for an app whose broker is a folder; yields it and its HTTP address."""
    (tmp_path / "relayed.py").write_text(APP, encoding="utf-8")
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-c", "from holdfast.cli import main; main()", "relay", "-A", "relayed"]
    relay = subprocess.Popen(
        [*command, "--metrics", "127.0.0.1:0", "--lease", "1", "--poll", "0.05"],
        cwd=tmp_path,
        env=os.environ | {"HOLDFAST_OUTBOX_URL": str(engine.url)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert relay.stderr is not None
    line = relay.stderr.readline()
    assert "metrics on " in line, line + relay.stderr.read()
    yield relay, f"http://{line.split()[-1]}"
    relay.kill()
    relay.wait()


def get(url: str) -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_for(condition: Callable[[], object], deadline: float = 60) -> None:
    """Wait until a callable answers with a true value."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def test_the_process_relays_reports_and_stops_on_sigterm(
    process: tuple[subprocess.Popen[str], str], engine: Engine, tmp_path: Path
) -> None:
    relay, address = process
    add_rows(engine, 5)
    wait_for(lambda: waiting(engine) == 0)
    assert len(list((tmp_path / "in").iterdir())) == 5
    status, page = get(f"{address}/metrics")
    assert status == 200
    assert "holdfast_outbox_acknowledged_total 5.0" in page
    assert "holdfast_outbox_waiting_rows 0.0" in page
    assert get(f"{address}/healthz")[0] == 200
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(timeout=90) == 0


def test_the_process_turns_unhealthy_without_its_database_and_recovers(
    process: tuple[subprocess.Popen[str], str], engine: Engine
) -> None:
    _, address = process
    outbox.metadata.drop_all(engine)
    wait_for(lambda: get(f"{address}/healthz")[0] == 503)
    clear(engine)
    add_rows(engine, 1)
    wait_for(lambda: waiting(engine) == 0)
    wait_for(lambda: get(f"{address}/healthz")[0] == 200)


def test_a_silent_relay_is_unhealthy(engine: Engine) -> None:
    metrics = Metrics(store.EngineRows(engine), patience=-1)
    port = metrics.serve("127.0.0.1", 0)
    assert get(f"http://127.0.0.1:{port}/healthz")[0] == 503


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--database-url", "oracle://user:secret@host/name"), "none of these forms: postgresql+psycopg://"),
        (("--database-url", "nothing+known://user:secret@host/name"), "none of these forms"),
        (("--database-url", "nonsense"), "none of these forms"),
        (("--database-url", "mysql+mysqldb://user:secret@host/name"), "Install one of pymysql, mysqlclient"),
        (("--database-url", "sqlite://", "--metrics", "here"), "allowed is HOST:PORT"),
        (("--database-url", "sqlite://", "--batch", "0"), "--batch is 0; allowed is a number above 0"),
        (("--database-url", "sqlite://", "--lease", "0"), "--lease is 0.0; allowed is a number above 0"),
        (("--database-url", "sqlite://", "--poll", "-1"), "--poll is -1.0; allowed is a number above 0"),
        (("--database-url", "sqlite://", "--metrics", "192.0.2.1:9539"), "Choose another --metrics address"),
    ],
)
def test_wrong_options_are_named_with_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "options_app.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["relay", "-A", "options_app", *arguments])
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql+asyncpg://user:secret@host/name", "psycopg"),
        ("mysql+aiomysql://user:secret@host/name", "pymysql"),
        ("mysql+asyncmy://user:secret@host/name", "pymysql"),
        ("mariadb+asyncmy://user:secret@host/name", "pymysql"),
        ("sqlite+aiosqlite:///file", "pysqlite"),
        ("postgresql+psycopg://user:secret@host/name", "psycopg"),
    ],
)
def test_the_url_of_an_asyncio_application_is_opened_with_a_driver_that_needs_no_loop(url: str, driver: str) -> None:
    engine = open_engine(url)
    assert engine.driver == driver
    assert engine.url.password == make_url(url).password


def test_the_status_is_printed_for_the_url_of_an_asyncio_application(engine: Engine) -> None:
    add_rows(engine, 2)
    url = f"sqlite+aiosqlite:///{engine.url.database}"
    result = CliRunner().invoke(main, ["outbox", "--database-url", url, "status"])
    assert json.loads(result.output)["waiting"] == 2


def test_without_such_a_driver_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psycopg", "psycopg2", "pg8000"):
        monkeypatch.setitem(sys.modules, name, None)
    url = "postgresql+asyncpg://user:secret@host/name"
    result = CliRunner().invoke(main, ["outbox", "--database-url", url, "status"])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "Install one of psycopg, psycopg2, pg8000" in said
    assert "secret" not in said


def test_a_silent_result_store_is_asked_once_in_a_pass(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def away(*_: object, **__: object) -> None:
        asked.append(1)
        raise ConnectionError("no answer")

    monkeypatch.setattr(app.backend, "apply_chord", away)
    with Session(engine) as session, session.begin():
        for _ in range(3):
            outbox.enqueue(session, chord([add.s(1, 1)], total.s()))
        outbox.enqueue(session, add.s(1, 1))
    done = relay_over(engine, lambda _: None).once()
    assert (done.published, done.kept, len(asked)) == (1, 3, 1)
    with engine.connect() as connection:
        assert set(connection.scalars(select(table.c.refusals))) == {0}, "an outage is no refusal"


def put_messages(engine: Engine, *messages: Message) -> None:
    """Store one row for each message."""
    with engine.begin() as connection:
        for message in messages:
            store.put_message(connection, message)


def ready_message(task_id: str, **changes: Any) -> Message:
    """A message as the outbox keeps it."""
    message = Message("tasks", "default", b"[]", "application/json", "utf-8", {}, {"correlation_id": task_id})
    return replace(message, **changes)


def refused_rows(engine: Engine) -> list[tuple[str, int, str]]:
    """Rows that stay, with the number of refusals and the reason."""
    with engine.connect() as connection:
        rows = connection.execute(select(table.c.task_id, table.c.refusals, table.c.error).order_by(table.c.id))
        return [(row.task_id, row.refusals, row.error) for row in rows]


def test_a_row_whose_delay_is_no_time_stops_no_other(engine: Engine) -> None:
    put_messages(engine, ready_message("bad", exchange=delay.EXCHANGE, headers={"eta": "soon"}), ready_message("good"))
    sent: list[str | None] = []
    relay_over(engine, lambda message: sent.append(message.task_id)).once()
    assert sent == ["good"]
    ((task_id, refusals, error),) = refused_rows(engine)
    assert (task_id, refusals) == ("bad", 1)
    assert "soon" in error


def test_of_a_workflow_with_a_message_that_cannot_be_sent_nothing_is_sent(engine: Engine) -> None:
    with engine.begin() as connection:
        store.put(connection, Workflow("group", [ready_message("one"), ready_message("two", routing_key="k" * 300)]))
    put_messages(engine, ready_message("good"))
    sent: list[str | None] = []
    relay_over(engine, lambda message: sent.append(message.task_id)).once()
    assert sent == ["good"]
    ((task_id, refusals, error),) = refused_rows(engine)
    assert (task_id, refusals) == ("group", 1)
    assert "AMQP cannot carry" in error


def test_a_reason_is_kept_in_a_form_that_every_database_takes(engine: Engine) -> None:
    put_messages(engine, ready_message("bad"))
    relay_over(engine, lambda _: Refused("a \x00 " + "x" * 10_000)).once()
    ((_, _, error),) = refused_rows(engine)
    assert "\x00" not in error
    assert len(error) == 2000


@pytest.mark.parametrize(
    ("error", "refusals"),
    [
        (NoPermissionError("no right to SET"), 1),
        (ResponseError("WRONGTYPE"), 1),
        (ResultRefused("too large"), 1),
        (NotImplementedError("no chords"), 1),
        (RedisConnectionError("away"), 0),
        (ResponseError("NOREPLICAS"), 0),
        (OutOfMemoryError("full"), 0),
    ],
    ids=repr,
)
def test_a_result_store_that_refuses_a_chord_is_no_outage(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, refusals: int
) -> None:
    with Session(engine) as session, session.begin():
        outbox.enqueue(session, chord([add.s(1, 1), add.s(2, 2)], total.s()))

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app.backend, "set_chord_size", refuse)
    monkeypatch.setattr(app.backend, "apply_chord", refuse)
    relay_over(engine, lambda _: None).once()
    ((_, found, _),) = refused_rows(engine)
    assert found == refusals


def test_on_another_broker_too_a_message_that_cannot_be_sent_stops_no_other() -> None:
    other = Celery("other", broker="memory://", set_as_current=False)
    bad = ready_message("bad", properties={"correlation_id": "bad", "expiration": "never"})
    outcomes = send.sender(other)([ready_message("one"), bad, ready_message("two")])
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]

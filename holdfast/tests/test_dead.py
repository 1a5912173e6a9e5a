"""What a replay keeps of a dead message, what it drops, and where it goes; the queue itself needs the stack."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from unittest.mock import MagicMock

import click
import pytest
from amqp import Message
from celery import Celery
from click.testing import CliRunner

from holdfast import dead, routing

DELAYED_KEY = "0." * 26 + "1.1.critical"
TASK = {"id": "task-1", "task": "some.task", "retries": 4, "expires": "2026-01-01T00:00:00+00:00", "argsrepr": "(1,)"}


def letter(
    deaths: list[dict[str, Any]] | None = None,
    body: bytes = b"[[1], {}, {}]",
    headers: dict[str, Any] | None = None,
    exchange: str = "dead",
) -> dead.Letter:
    """Return a message as RabbitMQ hands it over."""
    marks: dict[str, Any] = {}
    if deaths:
        marks = {"x-death": deaths, "x-first-death-queue": "default", "x-last-death-reason": "rejected"}
        marks |= {"x-delivery-count": 3}
    raw = Message(
        body,
        application_headers=(TASK if headers is None else headers) | marks,
        content_type="application/json",
        correlation_id="task-1",
        delivery_mode=2,
        expiration="5000",
    )
    raw.delivery_info = {"exchange": exchange, "routing_key": "critical", "delivery_tag": 1}
    return dead.Letter(raw)


def death(queue: str, exchange: str, key: str) -> dict[str, Any]:
    return {
        "queue": queue,
        "exchange": exchange,
        "routing-keys": [key],
        "reason": "rejected",
        "time": datetime(2026, 11, 23, 12),  # noqa: DTZ001 - py-amqp's timestamps have no zone
        "count": 1,
    }


@pytest.fixture
def app() -> Celery:
    app = Celery("test", broker="amqp://192.0.2.1")
    app.conf.task_queues = routing.queues(("default", "critical"))
    return app


def test_a_replay_returns_to_the_queue_that_it_died_in(app: Celery) -> None:
    assert letter([death("critical", "tasks", "critical")]).target(app) == ("tasks", "critical")


def test_after_a_countdown_it_does_not_wait_again(app: Celery) -> None:
    delayed = letter([death("critical", "celery_delayed_delivery", DELAYED_KEY)])
    assert delayed.target(app) == ("tasks", "critical")


def test_a_queue_of_another_application_is_found_by_the_record(app: Celery) -> None:
    assert letter([death("mail", "mails", "mail.fast")]).target(app) == ("mails", "mail.fast")


def test_an_unrouted_message_goes_where_it_was_sent(app: Celery) -> None:
    assert letter(exchange="tasks").target(app) == ("tasks", "critical")


def test_the_copy_has_a_new_life() -> None:
    copy = letter([death("default", "tasks", "default")]).revived()
    headers = copy.properties["application_headers"]
    assert not [name for name in headers if name.startswith("x-")], "RabbitMQ drops what seems to die in circles"
    assert (headers["retries"], headers["expires"], headers[dead.REPLAY_HEADER]) == (0, None, 1)
    assert (headers["id"], headers["task"]) == ("task-1", "some.task")
    assert "expiration" not in copy.properties
    assert copy.properties["delivery_mode"] == 2
    assert copy.properties["content_type"] == "application/json"
    assert copy.body == b"[[1], {}, {}]"


def test_each_replay_is_counted() -> None:
    again = letter(headers=TASK | {dead.REPLAY_HEADER: 2}).revived()
    assert again.properties["application_headers"][dead.REPLAY_HEADER] == 3


def test_a_message_that_is_no_task_keeps_its_headers() -> None:
    copy = letter(headers={"kind": "other"}).revived()
    assert copy.properties["application_headers"] == {"kind": "other", dead.REPLAY_HEADER: 1}


def test_a_summary_is_json() -> None:
    summary = json.loads(json.dumps(letter([death("default", "tasks", "default")]).summary()))
    assert summary["task_id"] == "task-1"
    assert (summary["queue"], summary["reason"], summary["time"]) == (
        "default",
        "rejected",
        "2026-11-23T12:00:00+00:00",
    )


def test_a_record_keeps_any_body() -> None:
    assert letter().record()["body"] == "[[1], {}, {}]"
    assert letter(body=b"\xff\x00").record()["body_base64"] == "/wA="


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-A", "shop", "replay"], "either --task-id ID or --all"),
        (["-A", "shop", "replay", "--all", "--task-id", "x"], "either --task-id ID or --all"),
        (["-A", "shop", "discard", "--all", "--reason", "known"], "Add --yes"),
        (["-A", "shop", "discard", "--all", "--yes"], "--reason"),
        (["list"], "Missing option '-A' / '--app' (env var: 'HOLDFAST_APP')"),
        (["-A", "no.such.module", "list"], "Cannot load the application 'no.such.module'"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_connects(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.delenv("HOLDFAST_APP", raising=False)
    result = CliRunner().invoke(dead.command, arguments)
    assert result.exit_code != 0
    assert message in result.stderr


def test_redis_has_no_dead_letter_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead, "load_app", lambda _path: Celery("test", broker="redis://192.0.2.1"))
    result = CliRunner().invoke(dead.command, ["-A", "shop", "list"])
    assert result.exit_code == 1
    assert "Redis as the broker has no dead-letter queue" in result.stderr


@pytest.mark.parametrize(
    ("variable", "argument", "used"),
    [
        ("", None, None),
        (" ", None, None),
        ("amqp://operator:x@192.0.2.1/h,amqp://operator:x@192.0.2.2/h", None,
         "amqp://operator:x@192.0.2.1/h;amqp://operator:x@192.0.2.2/h"),
        ("amqp://operator:x@192.0.2.1/h", "amqp://other:x@192.0.2.3/h", "amqp://other:x@192.0.2.3/h"),
    ],
)  # fmt: skip
def test_the_login_of_operators_comes_from_a_variable_of_its_own(
    app: Celery, monkeypatch: pytest.MonkeyPatch, variable: str, argument: str | None, used: str | None
) -> None:
    seen: list[str | None] = []
    connection = MagicMock()
    connection.transport.driver_type = "amqp"

    def connect(urls: str | None) -> MagicMock:
        seen.append(urls)
        return connection

    monkeypatch.setattr(app, "connection_for_write", connect)
    monkeypatch.setenv("HOLDFAST_OPERATOR_URL", variable)

    with dead.open_office(app, "dead", argument):
        assert seen == [used]


def test_a_wrong_url_of_the_operators_login_is_named_without_its_password(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_OPERATOR_URL", "redis://operator:secret@192.0.2.1/0")
    with pytest.raises(click.ClickException, match="HOLDFAST_OPERATOR_URL: URL 1 of 1") as caught:
        dead.open_office(app, "dead").__enter__()
    assert "secret" not in str(caught.value)

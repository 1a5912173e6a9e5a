"""The command line: what it stores, what it refuses, and how it says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from holdfast.outbox.table import outbox
from holdfast.outbox.workflow import Workflow
from webhooks import cli, db, delivery, intake
from webhooks.models import Delivery

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def stored() -> list[Delivery]:
    with db.transaction() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.created_at)))


def enqueued() -> list[list[str | None]]:
    """The ids of the tasks in each row of the outbox."""
    with db.transaction() as session:
        rows = session.scalars(select(outbox.c.workflow).order_by(outbox.c.id))
        return [[message.task_id for message in Workflow.loads(row).messages] for row in rows]


def test_send_stores_the_delivery_with_its_task() -> None:
    result = run("send", "https://example.org/hook", '{"a": [1, null]}', "--queue", "critical", "--delay", "5")
    assert result.exit_code == 0, result.output
    (row,) = stored()
    assert result.stdout.strip() == row.id
    assert (row.url, row.payload, row.queue) == ("https://example.org/hook", {"a": [1, None]}, "critical")
    assert 4 < (row.next_attempt_at - row.created_at).total_seconds() < 6
    assert enqueued() == [[row.id]]


def test_send_uses_the_default_queue() -> None:
    assert run("send", "https://example.org/", "1").exit_code == 0
    assert [row.queue for row in stored()] == ["default"]
    assert len(enqueued()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("https://example.org/", "{"), "not JSON"),
        (("https://example.org/", "NaN"), "NaN is not JSON"),
        (("ftp://example.org/", "{}"), "schemes: https, http"),
        (("https:///path", "{}"), "must be an address such as https://"),
        (("https://example.org/", "{}", "--queue", "typo"), "no queue 'typo'; allowed: critical, default"),
    ],
)
def test_send_refuses_and_stores_nothing(arguments: tuple[str, ...], message: str) -> None:
    result = run("send", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not stored()
    assert not enqueued()


def test_wrong_lines_are_named_and_the_others_delivered(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    good = {"url": "https://example.org/", "payload": {}}
    file.write_bytes(
        b"\n".join(
            [
                json.dumps(good).encode(),
                b'{"url": ',
                b"",
                b'["a"]',
                b'{"url": "https://example.org/"}',
                json.dumps(good | {"queue": "typo"}).encode(),
                json.dumps(good | {"priority": 3}).encode(),
                b'{"url": "\xff"}',
                json.dumps(good | {"queue": "critical"}).encode(),
            ]
        )
    )
    result = run("send-many", str(file))
    assert result.exit_code == 1
    for number, message in {
        2: "not JSON",
        4: "not a JSON object",
        5: "payload is missing",
        6: "there is no queue 'typo'; allowed: critical, default",
        7: "unknown field priority; allowed: url, payload, queue",
        8: "'utf-8' codec",
    }.items():
        assert f"{file}, line {number}: {message}" in result.stderr
    assert "6 lines were left out" in result.stderr
    rows = stored()
    assert [row.queue for row in rows] == ["default", "critical"]
    assert enqueued() == [[row.id for row in rows]]
    assert f"batch {rows[0].batch_id}: 2 accepted" in result.stdout


def test_a_good_file_is_one_batch(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text('{"url": "https://example.org/", "payload": 1}\n' * 3)
    assert run("send-many", str(file), "--queue", "critical").exit_code == 0
    rows = stored()
    assert {row.queue for row in rows} == {"critical"}
    assert len({row.batch_id for row in rows}) == 1
    assert enqueued() == [[row.id for row in rows]], "one chord, one row"


def test_an_unknown_queue_for_all_lines_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text('{"url": "https://example.org/", "payload": 1}\n')
    result = run("send-many", str(file), "--queue", "typo")
    assert result.exit_code == 1
    assert "no queue 'typo'; allowed: critical, default" in result.stderr
    assert not stored()


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "empty.jsonl"
    file.touch()
    assert run("send-many", str(file)).exit_code == 1


def test_status_counts(accepted: str) -> None:
    assert run("send", "https://example.org/", "{}").exit_code == 0
    delivery.succeed(accepted, accepted, 200)
    content = json.loads(run("status", "--json").stdout)
    assert (content["pending"], content["delivered"], content["dead"], content["effects"]) == (1, 1, 0, 1)
    assert "delivered" in run("status").stdout


def test_report_of_the_last_batch(url: str) -> None:
    assert "no such batch" in run("report").stderr
    rows = intake.accept([intake.Request(url, {}, "default")], batch=True)
    batch = str(rows[0].batch_id)
    assert "no report yet" in run("report").stderr
    delivery.succeed(rows[0].id, rows[0].id, 200)
    delivery.write_report(batch)
    content = json.loads(run("report", batch, "--json").stdout)
    assert (content["batch_id"], content["total"], content["delivered"]) == (batch, 1, 1)
    assert run("report").exit_code == 0


def test_a_database_without_tables_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEBHOOKS_DATABASE_URL", f"sqlite:///{tmp_path / 'new.sqlite3'}")
    result = run("status")
    assert result.exit_code == 1
    assert "webhooks init-db" in result.stderr
    assert run("init-db").exit_code == 0
    assert run("status").exit_code == 0


def test_a_wrong_number_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOKS_MAX_ATTEMPTS", "many")
    result = run("status")
    assert result.exit_code == 1
    assert "WEBHOOKS_MAX_ATTEMPTS is 'many'" in result.stderr


def test_waiting_shows_what_is_left() -> None:
    result = run("send", "https://example.org/", "{}", "--wait", "1")
    assert result.exit_code == 1
    assert "0 delivered, 0 dead, 1 pending" in result.stdout


def test_a_port_in_use_is_named(url: str, tmp_path: Path) -> None:
    port = str(urlsplit(url).port)
    result = run("receiver", "--port", port, "--log", str(tmp_path / "second.jsonl"))
    assert result.exit_code == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in result.stderr

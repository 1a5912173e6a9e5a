"""Log lines as JSON: each names its task, and what one publish has set off can be found by one id."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from folder_worker import Worker, free_port, wait_for

from holdfast import logs

if TYPE_CHECKING:
    from pathlib import Path


def line(**extra: Any) -> dict[str, Any]:
    """Return what is written for one record."""
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "done %s", "args": ("it",), **extra})
    written: dict[str, Any] = json.loads(logs.Formatter().format(record))
    return written


def test_a_task_its_child_and_the_retry_share_an_id_in_every_process(tmp_path: Path) -> None:
    worker = Worker(tmp_path, free_port(), HOLDFAST_LOG_FORMAT="json")
    with worker.running():
        worker.call("first.delay(); end.delay('failed')")
        wait_for(lambda: worker.log.count("succeeded in") >= 2 and "raised unexpected" in worker.log, worker)
    # after its end, because a line of a running worker may be half written
    written = [json.loads(text) for text in worker.log.splitlines() if text.startswith("{")]
    mine = next(found for found in written if found["message"] == "on its way")
    assert mine["tenant"] == "t1"
    assert mine["task"] == "first"
    chain = [
        (found["task"], found["message"].split("]")[-1].split(" in ")[0].strip())
        for found in written
        if found.get("root_id") == mine["task_id"] and found["logger"].startswith("celery.")
    ]
    assert sorted(chain) == sorted([
        ("first", "received"), ("first", "succeeded"), ("again", "received"), ("again", "retry: Retry"),
        ("again", "received"), ("again", "succeeded"),
    ])  # fmt: skip
    failed = next(found for found in written if "raised unexpected" in found["message"])
    assert failed["task"] == "end"
    assert "ValueError" in failed["exc_info"]


def test_a_message_at_hand_comes_before_what_celery_says() -> None:
    data = {"id": "1", "name": "stock", "args": "(secret,)"}
    assert line(data=data).items() >= {"message": "done it", "task_id": "1", "task": "stock"}.items()
    with logs.about({"id": "2", "task": "t", "root_id": "r"}):
        assert line(data=data).items() >= {"task_id": "2", "task": "t", "root_id": "r"}.items()
    assert "secret" not in json.dumps(line(data=data))
    assert "task_id" not in line()


def test_a_running_task_names_itself() -> None:
    app = Celery("logged", set_as_current=False)

    @app.task(name="t", shared=False)
    def task() -> dict[str, Any]:
        return line()

    found = task.apply(task_id="7").get()
    assert (found["task_id"], found["task"]) == ("7", "t")


def test_only_known_formats_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_LOG_FORMAT", "xml")
    with pytest.raises(ImproperlyConfigured, match="allowed is text or json"):
        logs.install()


def test_lines_stay_as_they_are_unless_json_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.Logger("one")
    logger.addHandler(logging.StreamHandler())
    monkeypatch.delenv("HOLDFAST_LOG_FORMAT", raising=False)
    logs.format_as_chosen(logger)
    assert logger.handlers[0].formatter is None
    monkeypatch.setenv("HOLDFAST_LOG_FORMAT", "json")
    logs.format_as_chosen(logger)
    assert isinstance(logger.handlers[0].formatter, logs.Formatter)

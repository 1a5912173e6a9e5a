"""What a run notes at its end, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery import Celery
from fakes import FakeTarget

from drill import ledger
from drill.run import drain
from drill.run.drill import Drill, Options

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_has_ended_only_when_all_its_files_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack: Any = SimpleNamespace(target=FakeTarget(), wait_healthy=lambda _timeout: [])
    run = Drill(stack, Options(seed=1), tmp_path, cast("Any", None), lambda _: None)
    monkeypatch.setattr("drill.run.drain.wait_empty", lambda *_: [])
    monkeypatch.setattr("drill.run.drain.collect", lambda *_: run.book.append("result", id="t1", state="SUCCESS"))
    at_flush: list[list[str]] = []
    monkeypatch.setattr(ledger, "flush", lambda _folder: at_flush.append(kinds(run)))
    run._finish()
    assert at_flush == [["open", "result"]]
    assert kinds(run) == ["open", "result", "drained"]


@pytest.mark.parametrize(
    ("settings", "states"),
    [
        ({}, ["SUCCESS", None]),
        ({"result_serializer": "pickle", "accept_content": ["pickle"]}, ["SUCCESS", None]),
        ({"result_serializer": "pickle"}, [None, None]),  # the application cannot read its own results
        ({"task_ignore_result": True}, []),
    ],
)
def test_results_are_read_as_the_application_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], states: list[str | None]
) -> None:
    app = Celery("patient", backend="redis://nowhere", set_as_current=False)
    app.conf.update(settings)
    backend: Any = app.backend
    monkeypatch.setattr(backend, "mget", lambda _keys: [backend.encode({"status": "SUCCESS", "result": 1}), None])
    book = ledger.Writer(tmp_path / "drill.ledger", "run", "drill")
    drain._note_results(cast("Any", SimpleNamespace(app=app)), book, ["t1", "t2"])
    found = ledger.read(tmp_path / "drill.ledger", "run").records
    assert [record["state"] for record in found if record["k"] == "result"] == states


def kinds(run: Drill) -> list[str]:
    return [record["k"] for record in ledger.read(run.folder / "drill.ledger", run.run).records]

"""What a run notes at its end, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from fakes import FakeTarget

from drill import ledger
from drill.run.drill import Drill, Options

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


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


def kinds(run: Drill) -> list[str]:
    return [record["k"] for record in ledger.read(run.folder / "drill.ledger", run.run).records]

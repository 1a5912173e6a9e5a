"""Local workers are supervised as those of production are: what nobody has stopped is started again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, cast

import pytest
from fakes import FakeTarget

from drill.targets import local
from drill.targets.local import LocalWorkers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from drill.targets.compose import Compose

ENDS_ONCE = """#!/bin/sh
case "$*" in
  *worker1@drill*) [ -e ended ] || { touch ended; exit; } ;;
esac
exec sleep 60
"""


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorkers]:
    """Workers of which the first one ends at once, when it is started for the first time."""
    program = tmp_path / "python"
    program.write_text(ENDS_ONCE)
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(local, "RESTART", 0.05)
    with LocalWorkers(cast("Compose", FakeTarget("rabbit1")), "app", tmp_path / "logs", {}) as found:
        yield found


def until(true: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def births(workers: LocalWorkers) -> list[str]:
    """Return how often each worker was started."""
    return [workers.birth(workers.nodes[name]) for name in local.WORKERS]


def test_a_worker_that_ends_by_itself_is_started_again(workers: LocalWorkers) -> None:
    until(lambda: births(workers) == ["2", "1"])
    assert [workers.states()[name] for name in local.WORKERS] == ["running", "running"]


@pytest.mark.parametrize("verb", ["kill", "stop"])
def test_a_worker_that_was_killed_or_stopped_stays_away(workers: LocalWorkers, verb: str) -> None:
    until(lambda: births(workers) == ["2", "1"])
    first, second = (workers.nodes[name] for name in local.WORKERS)
    workers.kill([first]) if verb == "kill" else workers.stop(first)
    workers._processes[second.name].kill()  # the control: this one comes back, so the supervisor has looked at both
    until(lambda: births(workers) == ["2", "2"])
    assert workers.states()[first.name] == "exited"
    workers.start(first)
    assert births(workers) == ["3", "2"]
    assert workers.states()[first.name] == "running"

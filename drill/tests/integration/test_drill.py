"""The drill on the running stack: its smoke set passes, each injector proves what it does, a killed drill is healed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from drill import ROOT
from drill.cli import Places
from drill.run.drill import Drill, Options

if TYPE_CHECKING:
    from drill.targets.stack import Stack

pytestmark = pytest.mark.stack
HERE = Places.of_project("holdfast", ROOT / "build")


def drill(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "drill", *arguments], text=True, stdout=subprocess.PIPE)


def end_of(*arguments: str) -> tuple[int, str]:
    """Run the drill; return its exit code and what it said. One that takes too long leaves no fault behind."""
    process = drill(*arguments)
    try:
        said, _ = process.communicate(timeout=500)
    except BaseException:
        process.kill()
        process.wait()
        drill("heal").communicate(timeout=200)
        raise
    return process.returncode, said


@pytest.fixture(scope="module")
def stack() -> Stack:
    return HERE.stack


def test_the_smoke_set_passes() -> None:
    code, said = end_of("run", "--set", "smoke", "--seed", "1")
    assert code == 0, said


@pytest.mark.long
def test_a_command_that_restarts_a_worker_host_under_load_loses_nothing(stack: Stack) -> None:
    worker = stack.target.nodes["worker1"]
    before = stack.target.birth(worker)
    code, said = end_of("beside", "--", "docker", "restart", "--time", "45", worker.handle)
    assert code == 0, said
    assert stack.target.birth(worker) != before


@pytest.mark.long
def test_a_command_that_fails_fails_the_drill() -> None:
    code, said = end_of("beside", "--", "false")
    assert code == 1, said
    assert "The command ended with 1." in said


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["broker-flutter", "broker-bridge", "memory-alarm", "redis-primary-isolate", "worker-parent-kill", "beat-kill"],
)
def test_a_fault_is_proven_and_healed(stack: Stack, tmp_path: Path, name: str) -> None:
    run = Drill(stack, Options(seed=1, calm=0), tmp_path, HERE.journal, lambda _: None)
    record = run.inject(f"1-{name}", name, random.Random(1))  # noqa: S311 - repeatable on purpose
    assert record.problem == ""
    assert record.proof
    assert record.healed
    assert HERE.journal.steps() == []


@pytest.mark.long
def test_a_drill_killed_in_the_middle_of_a_fault_is_healed(stack: Stack) -> None:
    process = drill("run", "broker-leader-pause", "--seed", "1")
    assert stack.wait(lambda: "paused" in stack.target.states().values(), 120)
    process.kill()
    process.wait()
    assert HERE.journal.steps()
    healing = drill("heal")
    said, _ = healing.communicate(timeout=200)
    assert healing.returncode == 0, said
    # a worker may leave a broker that was frozen for 20 s in the moment when it is back
    assert stack.wait(lambda: stack.complaints() == [], 60), stack.complaints()
    deadline = time.monotonic() + 40  # a publisher ends the publish that it is in
    while _publishers() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert _publishers() == []


def test_the_report_of_the_last_run_can_be_made_again() -> None:
    folders = [path.parent for path in HERE.ledgers.glob("*/report.json")]
    last = max(folders, key=lambda folder: (folder / "report.json").stat().st_mtime)
    before = json.loads((last / "report.json").read_text())
    again = drill("report", str(last))
    again.communicate(timeout=240)
    assert json.loads((last / "report.json").read_text()) == before


def _publishers() -> list[str]:
    """Return the publisher processes that run for this checkout's drills."""
    mine = str(HERE.ledgers).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            command = path.read_bytes()
            if b"drill.load.publisher" in command and mine in command:
                found.append(path.parent.name)
    return found

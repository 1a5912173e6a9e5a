"""The heartbeat file: what each state of a worker or beat is judged to be."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from holdfast import probe, pulse
from holdfast.pulse import Pulse, Queue

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_000_000.0
NO_PROCESS = 2**22 + 1  # above the kernel's largest process id


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_PULSE_DIR", str(tmp_path / "pulses"))
    return tmp_path / "pulses"


def consuming(**changes: object) -> Pulse:
    beat = Pulse("default", "worker", state="consuming", since=NOW, time=NOW, queues={"default": Queue(NOW, 0, 1)})
    for name, value in changes.items():
        setattr(beat, name, value)
    return beat


def test_a_consuming_worker_is_well() -> None:
    assert consuming().problems(NOW) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": NOW - 31}, "stood still for 31 s"),
        ({"queues": {}}, "consumes from no queue"),
        ({"queues": {"default": Queue(NOW - 61, 5, 0)}}, "knows no consumer of queue default for 61 s"),
        ({"queues": {"default": Queue(NOW - 61, 0, 1)}}, "no answer from the broker about queue default for 61 s"),
        ({"starved": NOW - 91}, "messages have waited for 91 s"),
        ({"state": "connecting", "since": NOW - 121}, "not connected to a broker for 121 s"),
        ({"pid": NO_PROCESS}, "has ended"),
    ],
)
def test_a_worker_that_does_not_consume_is_told_apart(changes: dict[str, object], words: str) -> None:
    (problem,) = consuming(**changes).problems(NOW)
    assert words in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"time": NOW - 29},
        {"starved": NOW - 89},
        {"queues": {"default": Queue(NOW - 59, 5_000, 1)}},  # a backlog alone is no fault
        {"queues": {"default": Queue(NOW - 59, 0, 0)}},  # a leader that is away is described like this
        {"state": "connecting", "since": NOW - 119, "time": NOW - 119},
    ],
)
def test_what_passes_by_itself_is_no_fault(changes: dict[str, object]) -> None:
    assert consuming(**changes).problems(NOW) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"queues": {}, "paused": {"default": NOW - 3600}},  # all queues
        {"paused": {"critical": NOW - 3600}},  # one of two
        {"queues": {"default": Queue(NOW - 61, 5, 0)}, "paused": {"default": NOW - 1}},  # it was noted this moment
        {"queues": {}, "paused": {"default": NOW}, "state": "connecting", "since": NOW - 100},
    ],
)
def test_a_queue_that_remote_control_has_cancelled_is_no_fault(changes: dict[str, object]) -> None:
    beat = consuming(**changes)
    assert beat.problems(NOW) == []
    (name,) = beat.paused
    assert not beat.consumes(name, NOW)
    (note,) = beat.notes(NOW)
    assert note.startswith(f"queue {name} is paused by remote control since 1970-01-12 ")


@pytest.mark.parametrize(
    "changes",
    [
        {"time": NOW - 31},
        {"state": "connecting", "since": NOW - 121},
        {"queues": {"other": Queue(NOW - 61, 5, 0)}},
        {"pid": NO_PROCESS},
    ],
)
def test_a_pause_hides_no_other_fault(changes: dict[str, object]) -> None:
    beat = consuming(paused={"default": NOW - 3600}, **({"queues": {}} | changes))
    assert len(beat.problems(NOW)) == 1


def test_a_main_loop_that_runs_a_task_may_stand_still_for_its_time_limit() -> None:
    beat = consuming(task="report", limit=100.0, queues={"default": Queue(NOW - 500, 0, 1)}, starved=NOW - 500)
    assert beat.notes(NOW + 29) == []
    for later in (31, 75, 129):
        assert beat.problems(NOW + later) == []
        assert beat.consumes("default", NOW + later)
        assert beat.notes(NOW + later) == ["its main loop runs report since 1970-01-12 13:46:40 UTC"]
    (problem,) = beat.problems(NOW + 131)
    assert problem == "the main loop has stood still for 131 s since it began to run report (limit 130)"
    assert not beat.consumes("default", NOW + 131)


def test_a_beat_is_judged_by_its_last_tick() -> None:
    beat = Pulse("beat", "beat", state="standby", time=NOW)
    assert beat.problems(NOW + 89) == []
    assert "no tick for 91 s" in beat.problems(NOW + 91)[0]


def test_a_heartbeat_is_read_as_it_was_written() -> None:
    beat = consuming(received=7, running=2)
    beat.write()
    assert pulse.read("default") == beat
    assert pulse.names() == ["default"]


def test_a_file_that_cannot_be_read_is_no_heartbeat(directory: Path) -> None:
    directory.mkdir()
    (directory / "default.json").write_text('{"name": "default"')
    assert pulse.read("default") is None
    assert pulse.read("other") is None


def test_a_heartbeat_that_cannot_be_written_does_not_raise(directory: Path) -> None:
    directory.write_text("a file where the directory should be")
    consuming().write()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory of a process that nobody has told a folder of its own."""
    monkeypatch.delenv("HOLDFAST_PULSE_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_in_the_temporary_directory_is_of_one_user(temporary: Path) -> None:
    consuming().write()
    (folder,) = temporary.iterdir()
    assert folder == pulse.directory() == temporary / f"holdfast-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert pulse.names() == ["default"]


@pytest.mark.parametrize("planted", ["link", "open", "of another user"])
def test_a_folder_that_somebody_has_planted_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    """In it a link can stand where the heartbeat is written, and the file that it leads to would be lost."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + (planted == "of another user"))
    folder, kept = temporary / f"holdfast-{os.geteuid()}", temporary / "kept"
    kept.write_text("of the victim")
    there = temporary / "elsewhere" if planted == "link" else folder
    there.mkdir()
    there.chmod(0o777 if planted == "open" else 0o755)
    if planted == "link":
        folder.symlink_to(there)
    (there / f"default.{os.getpid()}").symlink_to(kept)
    consuming().write()
    assert kept.read_text() == "of the victim"
    assert pulse.read("default") is None
    said = CliRunner().invoke(probe.command, ["worker"])
    assert said.exit_code == 1
    assert "set HOLDFAST_PULSE_DIR" in said.output


def test_a_state_knows_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    beat = consuming()
    monkeypatch.setattr(pulse, "time", lambda: NOW + 5)
    beat.enter("consuming")
    assert beat.since == NOW
    beat.enter("connecting")
    assert beat.since == NOW + 5


def test_the_supervised_program_gives_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPERVISOR_PROCESS_NAME", raising=False)
    assert pulse.own_name("default@host") == "default@host"
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "default")
    assert pulse.own_name("default@host") == "default"


def test_the_probe_says_why_and_exits_with_1() -> None:
    run = CliRunner().invoke
    assert (run(probe.command, ["worker"]).exit_code, run(probe.command, ["worker", "default"]).exit_code) == (1, 1)
    Pulse("default", "worker", state="consuming", queues={"default": Queue(NOW * 9_000, 0, 1)}).write()
    Pulse("beat", "beat", pid=NO_PROCESS).write()
    good, bad = run(probe.command, ["worker"]), run(probe.command, ["beat"])
    assert (good.exit_code, good.output) == (0, "default: ok\n")
    Pulse("default", "worker", state="consuming", paused={"default": NOW}).write()
    paused = run(probe.command, ["worker"])
    assert paused.exit_code == 0
    assert paused.output == "default: ok; queue default is paused by remote control since 1970-01-12 13:46:40 UTC\n"
    assert (bad.exit_code, bad.output) == (1, f"beat: process {NO_PROCESS} has ended\n")
    assert run(probe.command, ["worker", "default", "critical"]).exit_code == 1


def test_this_process_is_alive_and_the_first_one_is_too() -> None:
    assert consuming(pid=os.getpid()).problems(NOW) == consuming(pid=1).problems(NOW) == []

"""What the verbs on bare hosts rely on: a command that fails, or that changes what it may not, fails the test."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import yaml

from .lab.lab import ROOT
from .production import lab as module
from .production.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECAP = "data1 : ok=9 changed=%d unreachable=0 failed=0"


@pytest.fixture
def told() -> list[str]:
    """What the terminal shows."""
    return []


@pytest.fixture
def lab(told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(module, "LOGS", tmp_path)
    lab = Lab(ROOT / "ansible/inventories/lab", told.append)
    with lab.logged("step"):
        yield lab


def playing(lab: Lab, monkeypatch: pytest.MonkeyPatch, said: str, status: int = 0) -> None:
    """Let every playbook print this, and end with this status."""
    run = partial(Lab.run, lab)
    monkeypatch.setattr(
        lab, "run", lambda *_, fails, **__: run("sh", "-c", f"echo '{said}'; exit {status}", fails=fails)
    )


def test_the_hosts_are_those_of_the_inventory(lab: Lab) -> None:
    assert lab.hosts == ["data1", "data2", "data3", "work1", "work2", "ops"]
    assert lab.one_of_each == ["data2", "work2"]


def test_a_command_that_fails_shows_the_end_of_its_log(lab: Lab) -> None:
    with pytest.raises(
        pytest.fail.Exception, match=r"ended with 3 after 0 s\n.*step\.log:\n(?s:.*)\n99\n100$"
    ) as failed:
        lab.run("sh", "-c", "seq 100; exit 3")
    assert "\n70\n" not in str(failed.value)
    assert "\n1\n2\n" in lab.log.read_text()


def test_a_command_that_has_to_fail_and_does_not_is_a_failure(lab: Lab) -> None:
    with pytest.raises(pytest.fail.Exception, match="true ended with 0"):
        lab.run("true", fails=True)


def test_the_terminal_shows_each_command_and_each_play(lab: Lab, told: list[str]) -> None:
    lab.run("printf", "%s\n", "PLAY [Brokers] ****", "TASK [Install] ***")
    assert told[0].endswith("'PLAY [Brokers] ****' 'TASK [Install] ***'")
    assert told[1:] == ["  PLAY [Brokers]"]


def test_a_run_that_changes_something_again_is_a_failure(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    playing(lab, monkeypatch, RECAP % 0)
    lab.unchanged("site")
    playing(lab, monkeypatch, RECAP % 2)
    with pytest.raises(pytest.fail.Exception, match="site changed something"):
        lab.unchanged("site")


@pytest.mark.parametrize(
    ("said", "status", "message"),
    [
        (f"too late: {RECAP % 0}", 0, "ended with 0"),
        (f"another word: {RECAP % 0}", 2, "without the words: too late"),
        (f"too late: {RECAP % 1}", 2, "changed something before it refused"),
    ],
)
def test_a_refusal_has_its_words_and_changes_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, said: str, status: int, message: str
) -> None:
    playing(lab, monkeypatch, said, status)
    with pytest.raises(pytest.fail.Exception, match=message):
        lab.refuses("too late", "site")


def test_another_inventory_differs_only_in_what_was_given(lab: Lab) -> None:
    folder = lab.changed_inventory("other", variables={"redis_port": 16379})
    assert Lab(folder, print).described() == lab.described()
    assert (folder / "group_vars/all/main.yml").resolve() == ROOT / "ansible/inventories/lab/group_vars/all/main.yml"
    assert yaml.safe_load((folder / "group_vars/all/other.yml").read_text()) == {"redis_port": 16379}


@pytest.fixture
def drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the drill: runs what it is given, and ends as that does."""
    program = tmp_path / "drill"
    program.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift\n"$@"; code=$?\necho "$code"; exit $code\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.usefixtures("drill")
def test_the_load_lasts_as_long_as_the_block(lab: Lab, told: list[str]) -> None:
    with lab.load():
        lab.run("echo", "inside")
    assert lab.log.read_text().splitlines()[-4:] == [module.UNDER_LOAD, "$ echo inside", "inside", "0"]
    assert told[-1] == "  0"


@pytest.mark.usefixtures("drill")
def test_what_fails_under_load_fails_the_test_when_the_drill_has_judged(lab: Lab) -> None:
    with pytest.raises(pytest.fail.Exception, match="false ended with 1"), lab.load():
        lab.run("false")
    assert lab.log.read_text().endswith("\n1\n")


def test_a_drill_that_does_not_start_is_a_failure(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(pytest.fail.Exception, match="before its load ran"), lab.load():
        pass


@pytest.mark.parametrize(
    ("steps", "code", "said"),
    [
        ("gone hosts", 0, "test_verbs.py::test_gone\ntests/production/test_verbs.py::test_hosts\n\n"),
        ("nonsense", 4, "found the steps nonsense; allowed: hosts, refused"),
    ],
)
def test_steps_are_chosen_by_name(steps: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", "pytest", "tests/production", "--steps", steps, "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr

"""Every command says what it takes, and a target that refuses ends it in words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from fakes import FakeTarget

from drill.cli import Places, main
from drill.cli.show import Lines
from drill.judge import checker
from drill.run.drill import Progress
from drill.targets import Target, TargetError

if TYPE_CHECKING:
    from pathlib import Path


def refusing() -> Target:
    raise TargetError("Refused: somebody works here.")


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_help_needs_no_stack_and_leaves_nothing_behind(command: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--build", str(tmp_path), *command, "--help"])
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["heal"], ["run", "broker-outage"]])
def test_a_target_of_ones_own_is_called_and_may_refuse(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drill.targets.refusing", refusing, raising=False)
    arguments = ["--build", str(tmp_path), *command, "--target", "drill.targets:refusing"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == checker.EXIT[checker.INCONCLUSIVE]
    assert "Refused: somebody works here." in result.output


def test_a_target_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--build", str(tmp_path), "heal", "--target", "no.such:thing"])
    assert "no.such:thing cannot be imported" in " ".join(result.output.split())


def test_a_fault_that_does_not_exist_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--build", str(tmp_path), "run", "broker-flood"])
    assert "There is no fault broker-flood." in result.output


def test_a_broker_that_the_shell_names_for_celery_is_not_that_of_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://an-application")
    monkeypatch.setattr("drill.cli.places.Stack", lambda *_: True)
    assert Places(tmp_path, tmp_path, FakeTarget).stack
    assert "CELERY_BROKER_URL" not in os.environ


def test_a_log_gets_one_line_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    show, progress = Lines(8), Progress()
    for phase, fault, acknowledged in [
        ("calm", "", 90),
        ("breaking rabbit1", "1-power-all", 100),
        ("breaking rabbit1", "1-power-all", 103),
        ("draining: 7 ready", "", 104),
        ("draining: 3 ready", "", 104),
    ]:
        progress.phase, progress.fault, progress.acknowledged = phase, fault, acknowledged
        show(progress)
    assert capsys.readouterr().err.splitlines() == [
        "0 of 8 faults, 90 acknowledged: calm",
        "0 of 8 faults, 100 acknowledged: 1-power-all: breaking rabbit1",
        "0 of 8 faults, 104 acknowledged: draining",
    ]

"""Every command says what it takes, and a target that refuses ends it in words."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from fakes import FakeTarget

from drill.cli import Places, main
from drill.cli.show import Lines
from drill.judge import checker
from drill.run.drill import Progress
from drill.targets import Logins, Target, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from drill.run.drill import Options


class Set(FakeTarget):
    """A target whose application has an environment."""

    def logins(self) -> Logins:
        return Logins(lambda name: name, {"HOLDFAST_BROKER_URL": "of-the-stack"})


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


@pytest.mark.parametrize(
    "name", ["CELERY_BROKER_URL", "HOLDFAST_BROKER_URL", "HOLDFAST_TLS_CA", "DJANGO_SETTINGS_MODULE"]
)
def test_servers_of_an_application_that_the_shell_names_get_no_load(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {name: "an-application", "HOLDFAST_NET": "172.30.90", "PATH": "/bin"})
    monkeypatch.setattr("drill.cli.places.Stack", lambda *_: True)
    assert Places(tmp_path, tmp_path, Set).stack
    assert "an-application" not in os.environ.values()
    assert os.environ["HOLDFAST_BROKER_URL"] == "of-the-stack"
    assert os.environ.items() >= {"HOLDFAST_NET": "172.30.90", "PATH": "/bin"}.items(), "the drill's own and the rest"


def test_a_command_beside_the_load_has_the_environment_of_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "HOLDFAST_BROKER_URL": "of-the-shell"})
    monkeypatch.setattr("drill.cli.places.Stack", lambda *_: True)
    found = tmp_path / "found"

    def execute(places: Places, _options: Options, faults: Iterable[str], *_: Any, **__: Any) -> Any:
        assert places.stack
        assert os.environ["HOLDFAST_BROKER_URL"] == "of-the-stack"
        assert not list(faults)
        return None, SimpleNamespace(word=checker.PASS, counts=SimpleNamespace(unknown=[]))

    monkeypatch.setattr("drill.cli.runs._execute", execute)
    monkeypatch.setattr("drill.targets.mine", Set, raising=False)
    command = ["sh", "-c", f'printf "%s" "$HOLDFAST_BROKER_URL" >{found}']
    arguments = ["--build", str(tmp_path), "beside", "--target", "drill.targets:mine", "--", *command]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert found.read_text() == "of-the-shell"


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

"""``holdfast doctor`` as it is called: text, JSON, exit codes, supervisor files, and the refusal to start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from click.testing import CliRunner

from holdfast.doctor import startup
from holdfast.doctor.cli import command
from holdfast.doctor.supervisor import examine_supervisor

if TYPE_CHECKING:
    from pathlib import Path

FOREIGN = 'from celery import Celery\napp = Celery("foreign", broker="amqp://nowhere//", set_as_current=False)\n'
GOOD = """[program:default]
command = celery -A shop worker -Q default
environment = REMAP_SIGTERM="SIGQUIT"
stopasgroup = false
killasgroup = true
stopwaitsecs = 35
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable application that has never heard of this project."""
    (tmp_path / "foreign_shop.py").write_text(FOREIGN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "foreign_shop"


def test_text_names_the_finding_the_loss_and_the_fix(foreign: str) -> None:
    result = CliRunner().invoke(command, ["-A", foreign])

    assert result.exit_code == 1
    assert "FATAL HF101-confirm-publish: publishes are not confirmed by the broker" in result.output
    assert 'fix:   broker_transport_options = {"confirm_publish": True}    (celery#5410)' in result.output
    assert "\x1b[" not in result.output


def test_json_and_ignored_rules(foreign: str) -> None:
    result = CliRunner().invoke(command, ["-A", foreign, "--json", "--ignore", "HF101=an outbox publishes"])

    answer = json.loads(result.output)
    assert answer["ignored"] == {"HF101": "an outbox publishes"}
    rules = [finding["rule"] for finding in answer["findings"]]
    assert "HF101-confirm-publish" not in rules
    assert "HF201-acks-late" in rules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ignore", "HF101"], "add the reason"),
        (["--ignore", "HF999=so"], "there is no such rule"),
        ([], "Say which application"),
        (["-A", "no.such.module"], "Cannot load the application"),
    ],
)
def test_wrong_calls_end_with_2_and_a_next_step(foreign: str, arguments: list[str], message: str) -> None:
    application = ["-A", foreign] if "--ignore" in arguments else []
    result = CliRunner().invoke(command, [*application, *arguments])

    assert result.exit_code == 2
    assert message in result.output


def test_fail_on_chooses_the_exit_code(foreign: str) -> None:
    names = [line.split()[0] for line in CliRunner().invoke(command, ["--list"]).output.splitlines() if "fatal" in line]
    without_fatal = [part for name in names for part in ("--ignore", f"{name}=test")]

    assert CliRunner().invoke(command, ["-A", foreign, *without_fatal]).exit_code == 1
    assert CliRunner().invoke(command, ["-A", foreign, *without_fatal, "--fail-on", "fatal"]).exit_code == 0


def test_a_broker_that_is_away_is_no_verdict(foreign: str) -> None:
    result = CliRunner().invoke(command, ["-A", foreign, "--live"])

    assert result.exit_code == 2
    assert "Could not look" in result.output


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), []),
        (("stopasgroup = false", "stopasgroup = true"), ["HF601-stopasgroup"]),
        (("killasgroup = true", ""), ["HF602-killasgroup"]),
        (("stopwaitsecs = 35", "stopwaitsecs = 20"), ["HF603-stopwaitsecs"]),
        (('environment = REMAP_SIGTERM="SIGQUIT"', ""), ["HF604-remap-sigterm"]),
    ],
)
def test_supervisor_files(tmp_path: Path, change: tuple[str, str], expected: list[str]) -> None:
    file = tmp_path / "workers.conf"
    file.write_text(GOOD.replace(*change), encoding="utf-8")

    assert [finding.rule.id for finding in examine_supervisor(file, 15)] == expected


def test_a_worker_with_a_fatal_finding_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("unsafe", broker="redis://localhost", set_as_current=False)

    with pytest.raises(SystemExit, match="HF201-acks-late") as refusal:
        startup.refuse(app)

    allow = str(refusal.value).rpartition(f"{startup.OPT_OUT}=")[2]
    monkeypatch.setenv(startup.OPT_OUT, allow)
    startup.refuse(app)

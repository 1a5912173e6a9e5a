"""``holdfast doctor`` as it is called: text, JSON, exit codes, and applications that misbehave."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from celery_doctor.cli import command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    Examine = Callable[..., Result]

FOREIGN = 'from celery import Celery\napp = Celery("foreign", broker="amqp://nowhere//", set_as_current=False)\n'


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


def test_a_broker_that_is_away_is_no_verdict_and_hides_no_other_finding(foreign: str) -> None:
    result = CliRunner().invoke(command, ["-A", foreign, "--live"])

    assert result.exit_code == 2
    assert "FATAL HF101-confirm-publish" in result.output
    assert "COULD NOT JUDGE HF802-queue-missing" in result.output
    assert "skipped HF811-queue-type: needs --management" in result.output


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Examine]:
    """Calls the doctor on an application with a given source; what it imports is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def call(source: str, *arguments: str) -> Result:
        (tmp_path / "patient.py").write_text(dedent(source), encoding="utf-8")
        return CliRunner().invoke(command, ["-A", "patient", *arguments])

    yield call
    for name in [name for name in set(sys.modules) - before if name.partition(".")[0] in ("patient", "shop", "conf")]:
        del sys.modules[name]


NOISY = """
    import atexit, os, subprocess, sys
    from celery import Celery
    print("hello from the application")
    os.write(1, b"hello from C\\n")
    subprocess.run(["echo", "hello from a child"])
    atexit.register(print, "goodbye")
    app = Celery("patient", broker="amqp://")
"""


def test_json_is_pure_whatever_the_application_prints(tmp_path: Path) -> None:
    (tmp_path / "patient.py").write_text(dedent(NOISY), encoding="utf-8")
    call = [str(Path(sys.executable).parent / "holdfast"), "doctor", "-A", "patient", "--json"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert json.loads(done.stdout)["app"] == "patient"
    printed = {"hello from the application", "hello from C", "hello from a child", "goodbye"}
    assert printed <= set(done.stderr.split("\n"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("import sys; sys.exit('configure me first')", "SystemExit: configure me first"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("def broken(:", "SyntaxError"),
        ("import os; os.environ['THE_BROKER_URL']", "KeyError: 'THE_BROKER_URL'"),
        ("value = 3", "AttributeError"),
        ("from celery import Celery; app = Celery(include=['no_such_tasks'])", "No module named 'no_such_tasks'"),
        ("from celery import Celery; app = Celery(); app.config_from_object('no_such_settings')", "no_such_settings"),
    ],
)
def test_an_application_that_cannot_be_loaded_is_one_line(examine: Examine, source: str, reason: str) -> None:
    for form in ([], ["--json"]):
        result = examine(source, *form)

        assert (result.exit_code, result.stdout) == (2, "")
        assert [line for line in result.stderr.splitlines() if line.strip()] == [result.stderr.strip()]
        assert result.stderr.startswith("Error: Cannot load the application 'patient': ")
        assert reason in result.stderr


TASKS = {
    "include": "app = Celery('patient', include=['shop.tasks'])",
    "imports": "app = Celery('patient'); app.conf.imports = ['shop.tasks']",
    "autodiscover": "app = Celery('patient'); app.autodiscover_tasks(['shop'])",
    "autodiscover lazily": "app = Celery('patient'); app.autodiscover_tasks(lambda: ['shop'])",
    "related name": "app = Celery('patient'); app.autodiscover_tasks(['shop'], related_name='tasks')",
    "imported by the module": "app = Celery('patient'); import shop.tasks",
}


@pytest.mark.parametrize("source", TASKS.values(), ids=TASKS.keys())
def test_tasks_are_found_wherever_a_worker_would_import_them(tmp_path: Path, examine: Examine, source: str) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    tasks = "from patient import app\n@app.task(acks_late=False, shared=False)\ndef early(): pass\n"
    (tmp_path / "shop/tasks.py").write_text(tasks, encoding="utf-8")
    result = examine(f"from celery import Celery\n{source}\napp.conf.task_acks_late = True", "--json")

    rules = {one["rule"]: one["found"] for one in json.loads(result.stdout)["findings"]}
    assert rules["HF201-acks-late"] == "acks_late is off for shop.tasks.early"


def test_names_are_spelt_as_the_application_spells_them(tmp_path: Path, examine: Examine) -> None:
    (tmp_path / "conf.py").write_text("CELERY_BROKER_URL = 'amqp://'\n", encoding="utf-8")
    source = "from celery import Celery\napp = Celery()\napp.config_from_object('conf', namespace='CELERY')\n"
    findings = {one["rule"]: one for one in json.loads(examine(source, "--json").stdout)["findings"]}

    assert findings["HF201-acks-late"]["found"] == "CELERY_TASK_ACKS_LATE is off"
    assert findings["HF201-acks-late"]["fix"] == "CELERY_TASK_ACKS_LATE = True (and no acks_late=False on a task)"
    assert "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 15" in findings["HF218-hard-stop"]["fix"]
    assert "REMAP_SIGTERM=SIGQUIT" in findings["HF218-hard-stop"]["fix"]


def test_the_page_of_rules_is_the_code() -> None:
    page = Path(__file__).parents[2] / "docs/reference/rules.md"
    rows = re.findall(r"^\| (HF\d{3}-[\w-]+) \| (\w+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    rules = [json.loads(line) for line in CliRunner().invoke(command, ["--list", "--json"]).stdout.splitlines()]
    assert sorted(rows) == [(rule["rule"], rule["severity"]) for rule in rules]

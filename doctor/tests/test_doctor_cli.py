"""``celery-doctor`` as it is called: text, JSON, exit codes, and applications that misbehave."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from xml.etree import ElementTree

import pytest

from celery_doctor import all_rules
from celery_doctor.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

FOREIGN = 'from celery import Celery\napp = Celery("foreign", broker="amqp://nowhere//", set_as_current=False)\n'


class Result(NamedTuple):
    """What a call ended with and printed."""

    exit_code: int
    stdout: str
    stderr: str


class Call(Protocol):
    """Calls the command with some arguments."""

    def __call__(self, *arguments: str) -> Result: ...


class Examine(Protocol):
    """Calls the command on an application with a given source."""

    def __call__(self, source: str, *arguments: str) -> Result: ...


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """The command, in this process."""

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        return Result(int(end.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable application that has never heard of this project."""
    (tmp_path / "foreign_shop.py").write_text(FOREIGN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "foreign_shop"


def test_text_names_the_finding_the_loss_and_the_fix(call: Call, foreign: str) -> None:
    result = call("-A", foreign)

    assert result.exit_code == 1
    assert "FATAL HF101-confirm-publish: publishes are not confirmed by the broker" in result.stdout
    assert 'fix:   broker_transport_options = {"confirm_publish": True, ...}    (celery#5410)' in result.stdout
    assert "\x1b[" not in result.stdout


def test_json_and_ignored_rules(call: Call, foreign: str) -> None:
    result = call("-A", foreign, "--json", "--ignore", "HF101=an outbox publishes")

    answer = json.loads(result.stdout)
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
def test_wrong_calls_end_with_2_and_a_next_step(call: Call, foreign: str, arguments: list[str], message: str) -> None:
    application = ["-A", foreign] if "--ignore" in arguments else []
    result = call(*application, *arguments)

    assert result.exit_code == 2
    assert message in result.stderr


def test_fail_on_chooses_the_exit_code(call: Call, foreign: str) -> None:
    names = [line.split()[0] for line in call("--list").stdout.splitlines() if "fatal" in line]
    without_fatal = [part for name in names for part in ("--ignore", f"{name}=test")]

    assert call("-A", foreign, *without_fatal).exit_code == 1
    assert call("-A", foreign, *without_fatal, "--fail-on", "fatal").exit_code == 0


def test_a_broker_that_is_away_is_no_verdict_and_hides_no_other_finding(call: Call, foreign: str) -> None:
    result = call("-A", foreign, "--live")

    assert result.exit_code == 2
    assert "FATAL HF101-confirm-publish" in result.stdout
    assert "COULD NOT JUDGE HF802-queue-missing" in result.stdout
    assert "skipped HF811-queue-type: needs --management" in result.stdout


@pytest.fixture
def examine(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Iterator[Examine]:
    """Calls the doctor on an application with a given source; what it imports is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def run(source: str, *arguments: str) -> Result:
        (tmp_path / "patient.py").write_text(dedent(source), encoding="utf-8")
        return call("-A", "patient", *arguments)

    yield run
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
    command = [str(Path(sys.executable).parent / "celery-doctor"), "-A", "patient", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)

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


def test_the_line_that_stops_the_import_is_named(
    tmp_path: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.py").write_text("import os\nbroker_url = os.environ['THE_BROKER_URL']\n", encoding="utf-8")

    assert examine("import conf").stderr.endswith("KeyError: 'THE_BROKER_URL' (conf.py, line 2)\n")


def test_names_are_spelt_as_the_application_spells_them(tmp_path: Path, examine: Examine) -> None:
    (tmp_path / "conf.py").write_text("CELERY_BROKER_URL = 'amqp://'\n", encoding="utf-8")
    source = "from celery import Celery\napp = Celery()\napp.config_from_object('conf', namespace='CELERY')\n"
    findings = {one["rule"]: one for one in json.loads(examine(source, "--json").stdout)["findings"]}

    assert findings["HF201-acks-late"]["found"] == "CELERY_TASK_ACKS_LATE is off"
    assert findings["HF201-acks-late"]["fix"] == "CELERY_TASK_ACKS_LATE = True (and no acks_late=False on a task)"
    assert "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 15" in findings["HF218-hard-stop"]["fix"]
    assert "REMAP_SIGTERM=SIGQUIT" in findings["HF218-hard-stop"]["fix"]


DIALECTS = {
    "namespace": (
        "CELERY_BROKER_URL = 'amqp://'; CELERY_BROKER_TRANSPORT_OPTIONS = {'max_retries': 3}",
        "app.config_from_object('conf', namespace='CELERY')",
        "CELERY_TASK_ACKS_LATE = True",
        'CELERY_BROKER_TRANSPORT_OPTIONS = {**CELERY_BROKER_TRANSPORT_OPTIONS, "confirm_publish": True}',
    ),
    "namespace in small letters": (
        "shop_broker_url = 'amqp://'",
        "app.config_from_object('conf', namespace='shop')",
        "shop_task_acks_late = True",
        'shop_broker_transport_options = {"confirm_publish": True}',
    ),
    "before Celery 4": (
        "BROKER_URL = 'amqp://'; CELERY_ACKS_LATE = False; BROKER_TRANSPORT_OPTIONS = {'max_retries': 3}",
        "app.config_from_object('conf')",
        "CELERY_ACKS_LATE = True",
        'BROKER_TRANSPORT_OPTIONS = {**BROKER_TRANSPORT_OPTIONS, "confirm_publish": True}',
    ),
    "Celery's own": (
        "broker_url = 'amqp://'",
        "app.config_from_object('conf')",
        "task_acks_late = True",
        'broker_transport_options = {"confirm_publish": True}',
    ),
    "statements": (
        "",
        "app.conf.update(broker_url='amqp://', broker_transport_options={'max_retries': 3})",
        "app.conf.task_acks_late = True",
        'app.conf.broker_transport_options = {**app.conf.broker_transport_options, "confirm_publish": True}',
    ),
    "before Celery 4, by statements": (
        "",
        "app.conf.update({'BROKER_URL': 'amqp://', 'BROKER_TRANSPORT_OPTIONS': {'max_retries': 3}})",
        "app.conf.CELERY_ACKS_LATE = True",
        'app.conf.BROKER_TRANSPORT_OPTIONS = {**app.conf.BROKER_TRANSPORT_OPTIONS, "confirm_publish": True}',
    ),
}


@pytest.mark.parametrize("form", DIALECTS)
def test_the_settings_to_write_are_in_the_form_of_the_application(tmp_path: Path, examine: Examine, form: str) -> None:
    settings, loads, late, confirms = DIALECTS[form]
    (tmp_path / "conf.py").write_text(settings, encoding="utf-8")
    source = f"from celery import Celery\napp = Celery('patient', set_as_current=False)\n{loads}\n"
    lines = examine(source, "--fix").stdout.splitlines()

    assert {late, confirms} <= set(lines)


def test_statements_in_the_old_names_can_be_added_to_an_application_in_the_old_names(examine: Examine) -> None:
    settings = {"BROKER_URL": "redis://", "CELERYD_POOL": "solo"}
    source = f"from celery import Celery\napp = Celery()\napp.conf.update({settings})\n"
    written = "\n".join(json.loads(examine(source, "--fix", "--json").stdout)["settings"])
    del sys.modules["patient"]
    after = examine(f"{source}{written}\n", "--json")

    assert after.exit_code == 1, after.stderr  # Celery refuses to mix the old names with its own
    assert "HF201-acks-late" not in after.stdout


@pytest.mark.parametrize(
    ("settings", "written", "alone"),
    [
        ("accept_content=['json', 'pickle']", 'app.conf.accept_content = ["json"]', True),
        (
            "accept_content=['yaml', 'msgpack'], task_serializer='msgpack'",
            'app.conf.accept_content = ["msgpack"]',
            True,
        ),
        ("accept_content=['pickle'], task_serializer='pickle'", "", False),
        ("accept_content=['json', 'pickle'], result_serializer='pickle'", "", False),
    ],
)
def test_what_an_application_publishes_itself_is_not_refused(
    examine: Examine, settings: str, written: str, alone: bool
) -> None:
    source = f"from celery import Celery\napp = Celery(broker='amqp://')\napp.conf.update({settings})\n"
    text = examine(source, "--fix").stdout

    assert [line for line in text.splitlines() if line.startswith("app.conf.accept_content")] == [written] * alone
    (unset,) = [line for line in text.splitlines() if line.startswith("# No setting alone")]
    assert ("HF220" in unset) is not alone


def test_what_is_printed_answers_what_was_found(tmp_path: Path, examine: Examine) -> None:
    (tmp_path / "conf.py").write_text("CELERY_BROKER_URL = 'amqp://'\n", encoding="utf-8")
    source = "from celery import Celery\napp = Celery()\napp.config_from_object('conf', namespace='CELERY')\n"
    before = json.loads(examine(source, "--fix", "--json").stdout)
    for name in ("patient", "conf"):
        del sys.modules[name]
    written = "\n".join(["CELERY_BROKER_URL = 'amqp://'", *before["settings"]])
    (tmp_path / "conf.py").write_text(f"{written}\n", encoding="utf-8")
    importlib.invalidate_caches()
    after = json.loads(examine(source, "--fix", "--json").stdout)

    rules = {rule.id: rule for rule in all_rules()}
    answered = {one["rule"] for one in before["findings"] if rules[one["rule"]].sets}
    assert len(answered) > 8
    assert not answered & {one["rule"] for one in after["findings"]}


def test_sarif_points_at_the_line_that_is_to_change(tmp_path: Path, examine: Examine, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.py").write_text("broker_url = 'amqp://'\ntask_acks_late = False\n", encoding="utf-8")
    source = "from celery import Celery\napp = Celery()\napp.config_from_object('conf')\n"
    result = examine(source, "--format", "sarif")
    (run,) = json.loads(result.stdout)["runs"]
    results = {one["ruleId"]: one for one in run["results"]}

    assert result.exit_code == 1
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == set(results)
    late = results["HF201-acks-late"]
    assert (late["level"], results["HF204-prefetch"]["level"]) == ("error", "warning")
    assert late["locations"] == [
        {"physicalLocation": {"artifactLocation": {"uri": "conf.py"}, "region": {"startLine": 2}}}
    ]
    assert "Fix: task_acks_late = True" in late["message"]["text"]
    assert results["HF105-one-broker"]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "patient.py"


def test_junit_has_a_case_for_each_rule_that_was_asked(call: Call, foreign: str) -> None:
    result = call("-A", foreign, "--format", "junit", "--fail-on", "fatal", "--ignore", "HF202=so", "--live")
    suite = ElementTree.fromstring(result.stdout).find("testsuite")  # noqa: S314 - our own text
    assert suite is not None
    cases = {case.attrib["name"]: [outcome.tag for outcome in case] for case in suite}

    assert cases["HF201-acks-late"] == ["failure"]
    assert cases["HF204-prefetch"] == ["system-out"]
    assert cases["HF801-rabbitmq-version"] == ["error"]
    assert cases["HF811-queue-type"] == ["skipped"]
    assert cases["HF113-transient-messages"] == []
    assert "HF202-worker-lost" not in cases
    counts = {tag: sum(tag in outcomes for outcomes in cases.values()) for tag in ("failure", "error", "skipped")}
    named = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    assert {tag: int(suite.attrib[name]) for tag, name in named.items()} == counts
    assert int(suite.attrib["tests"]) == len(cases)


def test_without_celery_it_says_where_it_belongs() -> None:
    code = "import sys; sys.modules['celery'] = None; from celery_doctor.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: Celery cannot be imported here (ModuleNotFoundError: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "command"),
    [("celery-doctor", ["celery-doctor"]), ("python -m celery_doctor", ["python", "-m", "celery_doctor"])],
)
def test_it_names_itself_as_it_was_called(name: str, command: list[str]) -> None:
    program = [str(Path(sys.executable).parent / command[0]), *command[1:], "--help"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, check=False)

    assert done.stdout.startswith(f"usage: {name} ")


def test_the_page_of_rules_is_the_code(call: Call) -> None:
    page = Path(__file__).parents[2] / "docs/reference/rules.md"
    rows = re.findall(r"^\| (HF\d{3}-[\w-]+) \| (\w+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    rules = [json.loads(line) for line in call("--list", "--json").stdout.splitlines()]
    assert sorted(rows) == [(rule["rule"], rule["severity"]) for rule in rules]

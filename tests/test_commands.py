"""Every line that a page tells to type is taken by the program that it names."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import holdfast
from drill.faults import base
from holdfast import inbox, outbox

from .commands import FENCE, ROOT, fences, files, inline, lines, problem

PAGES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, check=True, text=True, capture_output=True
    ).stdout.splitlines()
]
LANGUAGES = {"diff", "console", "json", "python", "sh", "text", "yaml", "toml", "ini", "dockerfile", "bash", "mermaid"}


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every path for one that exists: the reader's files are not here."""
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, *_: Path(value))
    monkeypatch.setattr(click.File, "convert", lambda _self, value, *_: value)
    monkeypatch.setenv("HOLDFAST_APP", "webhooks.app")  # app.env has it
    monkeypatch.setenv("HOLDFAST_OUTBOX_URL", "sqlite://")
    monkeypatch.setenv("HOLDFAST_OLD_BROKER_URL", "redis://")  # its page exports it
    monkeypatch.setenv("HOLDFAST_MANAGEMENT_URL", "http://192.0.2.1:15672")  # the same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_line_to_type_is_taken(page: Path) -> None:
    told = [*lines(page), *(inline(page) if page.parent.name == "runbooks" else ())]
    found = [(number, line, problem(line)) for number, line in told]
    assert [one for one in found if one[2]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_its_language(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(FENCE.findall(text)), "a block that does not end"
    assert [(number, language) for number, language, _ in fences(page) if language not in LANGUAGES] == []


@pytest.mark.parametrize(
    "line",
    [
        "holdfast dead replay",
        "holdfast dead discard --all --reason x",
        "holdfast dead show",
        "holdfast dead --queue unrouted replay",
        "holdfast outbox release",
        "holdfast deads list",
        "holdfast probe worker --nonsense",
        "webhooks send",
        "drill run no-such-fault",
        ".venv/bin/drill compare",
        ".venv/bin/python -m tests.stack.nonsense",
        ".venv/bin/python -c 1",
        "make nonsense",
        "make play PLAYBOOK=nonsense",
        "make play NONSENSE=1",
        'make play ARGS="-e no_such_variable=1"',
        "ansible-playbook holdfast.stack.nonsense -i my-inventory",
        "ansible-playbook holdfast.stack.site",
        "ansible-playbook holdfast.stack.site -i my-inventory -e no_such_variable=1",
        "docker compose -f compose/compose.yaml ps nobody",
        "docker compose -f nowhere.yaml ps",
        "supervisorctl -c /etc/supervisor/supervisord.conf explode",
        "pytest nowhere/tests",
        "scripts-that-nobody-knows",
        "echo 'no end",
    ],
)
def test_a_wrong_line_is_caught(line: str) -> None:
    assert problem(line)


class Row:
    """Something with a number, for a session that stores nothing."""

    id = 7


class Recorder(Session):
    """A session whose ``add`` takes what is no mapped object."""

    def add(self, instance: object, *_: Any, **__: Any) -> None:
        assert instance


@pytest.fixture
def given() -> dict[str, Any]:
    """What the examples take for granted: an application, a database, a task."""
    app = Celery("example", broker="amqp://127.0.0.1:1//", backend="cache+memory://", set_as_current=False)
    app.conf.holdfast_publish_deadline = 0.5  # nobody is there: outcomes say so
    holdfast.install(app)
    engine = create_engine("sqlite://")
    outbox.metadata.create_all(engine)
    inbox.metadata.create_all(engine)

    @app.task(name="example", shared=False)
    def task(_: object) -> None: ...

    return {
        "app": app,
        "book": lambda *_: "receipt",
        "INSTALLED_APPS": [],
        "deliver": task,
        "engine": engine,
        "order": Row(),
        "send_invoice": task,
        "timedelta": timedelta,
        "urls": ["https://example.com/hook"],
        "Session": Recorder,
        **{name: getattr(base, name) for name in dir(base) if not name.startswith("__")},
    }


PYTHON = [
    pytest.param(page, number, text, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, language, text in fences(page)
    if language == "python" and f"{text}\n" not in files(page).values()  # those are run by test_tutorials.py
]


@pytest.mark.parametrize(("page", "number", "text"), PYTHON)
def test_every_python_block_runs(
    page: Path, number: int, text: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_BROKER_URL", "amqp://app:secret@127.0.0.1:1/holdfast")  # for holdfast.settings
    monkeypatch.setenv("HOLDFAST_RESULT_URL", "sentinel://app:secret@127.0.0.1:1/0")
    monkeypatch.setenv("HOLDFAST_SENTINEL_MASTER", "results")
    with suppress(holdfast.NotAcknowledged):  # nobody is there
        exec(compile("\n" * (number - 1) + text, str(page), "exec"), given)  # noqa: S102 - the project's own pages

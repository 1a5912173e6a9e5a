"""The applications of the tutorials work as their pages say, here without a broker that answers."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from .commands import ROOT, files
from .test_docs import PAGES as ALL_PAGES
from .tutorials import PAGES, UNREACHABLE, difference, run, take_back, write

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = {
    "django": """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.test import Client
from orders.tasks import send_invoice
client = Client(headers={"host": "localhost"})
def order(): return client.post("/orders", {"email": "ada@example.com"})
def show(): return client.get("/orders/1").json()
""",
    "fastapi": """
from fastapi.testclient import TestClient
from shop.tasks import send_invoice
from shop.web import api
client = TestClient(api)
def order(): return client.post("/orders?email=ada@example.com")
def show(): return client.get("/orders/1").json()
""",
    "flask": """
from make_celery import flask_app
from shop.tasks import send_invoice
client = flask_app.test_client()
def order(): return client.post("/orders", data={"email": "ada@example.com"})
def show(): return client.get("/orders/1").get_json()
""",
}
OUTBOX = {"django": ("python3", "manage.py", "outbox")}
CHANGED = {
    "django": (6, 4),
    "flask": (9, 6),
    "fastapi": (9, 7),
}  # lines of the example that are ours, and those of them that are added
CHECK = """
answer = order()
before = show()["invoice"]
results = [send_invoice.apply((1,), task_id="same").get() for _ in range(2)]
print(answer.status_code, before or None, results == [show()["invoice"]] * 2, results[0])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The application of each tutorial, to be copied."""
    folders = {name: tmp_path_factory.mktemp(name) for name in PAGES}
    for name, folder in folders.items():
        write(name, folder)
    return folders


def test_every_page_with_files_to_write_is_a_tutorial_that_is_run() -> None:
    assert {page for page in ALL_PAGES if files(page)} == set(PAGES.values())


@pytest.mark.parametrize("name", PAGES)
def test_an_outage_of_the_brokers_loses_no_order_and_no_task(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(made[name], tmp_path, dirs_exist_ok=True)

    said = run(tmp_path, UNREACHABLE, "python3", "-c", REQUESTS[name] + CHECK).splitlines()[-1]

    assert said == "202 None True Invoice 1 for ada@example.com"
    assert json.loads(run(tmp_path, UNREACHABLE, *OUTBOX.get(name, ("holdfast", "outbox")), "status"))["waiting"] == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_page_with_an_asyncio_engine_installs_what_it_runs_on(name: str) -> None:
    """SQLAlchemy 2.0 brings greenlet on most platforms; 2.1 brings it with this extra alone."""
    page = PAGES[name].read_text(encoding="utf-8")
    installed = next(line for line in page.splitlines() if line.startswith("pip install"))
    assert ("'sqlalchemy[asyncio]'" in installed) is ("sqlalchemy.ext.asyncio" in page)


def test_a_publish_that_is_not_acknowledged_is_an_answer_of_the_endpoint(made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(made["fastapi"], tmp_path, dirs_exist_ok=True)
    program = """
from fastapi.testclient import TestClient
from shop.celery import app
from shop.direct import api
app.conf.holdfast_publish_deadline = 0.5  # nobody is there
answer = TestClient(api).post("/invoices/1")
print(answer.status_code, answer.json()["maybe_published"])
"""

    assert run(tmp_path, UNREACHABLE, "python3", "-c", program).splitlines()[-1] == "503 False"


@pytest.mark.parametrize("name", CHANGED)
def test_the_example_is_the_application_of_its_page_and_counts_its_changed_lines(name: str, tmp_path: Path) -> None:
    example = ROOT / "examples" / name
    written = {str(path.relative_to(example)): path.read_text() for path in example.rglob("*.py")}
    told = {path: text.removeprefix(f"# {path}\n") for path, text in files(PAGES[name]).items()}
    told.pop("shop/direct.py", None)  # what a page shows in addition
    assert told == {path: text for path, text in written.items() if path in told}

    changed = [line for line in difference(name).splitlines() if re.match(r"[+-](?![+-]{2} )\s*\S", line)]
    added = [line for line in changed if line.startswith("+")]
    assert (len(changed), len(added)) == CHANGED[name], "as the page says"
    shutil.copytree(example, tmp_path, dirs_exist_ok=True)
    take_back(name, tmp_path)
    assert not [path for path in written if "holdfast" in (tmp_path / path).read_text().lower()]


def test_the_example_for_django_is_whole(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/django", tmp_path, dirs_exist_ok=True)
    run(tmp_path, UNREACHABLE, "python3", "manage.py", "makemigrations", "--check", "--dry-run")
    run(tmp_path, UNREACHABLE, "python3", "manage.py", "migrate")
    said = run(tmp_path, UNREACHABLE, "python3", "-c", REQUESTS["django"] + CHECK).splitlines()[-1]
    assert said == "202 None True Invoice 1 for ada@example.com"

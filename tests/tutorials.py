"""The applications of the tutorials, written to a folder as their pages tell."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from .commands import ROOT, fences, files

if TYPE_CHECKING:
    from pathlib import Path

PAGES = {name: ROOT / f"docs/tutorials/{name}.md" for name in ("django", "fastapi", "flask")}
UNREACHABLE = {
    "HOLDFAST_BROKER_URL": "amqp://app:secret@127.0.0.1:1/holdfast",
    "HOLDFAST_RESULT_URL": "sentinel://app:secret@127.0.0.1:1/0",
    "HOLDFAST_SENTINEL_MASTER": "results",
}


def run(folder: Path, servers: dict[str, str], *command: str) -> str:
    """Run a command of a tutorial in its folder and return what it prints."""
    done = subprocess.run(
        command, cwd=folder, env=environment(servers), text=True, capture_output=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def environment(servers: dict[str, str]) -> dict[str, str]:
    """Return the environment of the tutorials' terminals, with the programs of this interpreter first."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "DJANGO_"))}
    path = f"{os.path.dirname(sys.executable)}:{own['PATH']}"  # noqa: PTH120 - resolving would leave the environment
    database = "sqlite:///outbox.sqlite3"
    return own | {"HOLDFAST_OUTBOX_URL": database, "DATABASE_URL": database} | servers | {"PATH": path}


def difference(name: str) -> str:
    """Return what Holdfast changed in an example, as its README shows it."""
    return next(text for _, language, text in fences(ROOT / "examples" / name / "README.md") if language == "diff")


def take_back(name: str, folder: Path) -> None:
    """Take these changes back in a copy of the example: what is left is stock Celery."""
    command = ["patch", "--reverse", "--strip=1", "--quiet"]
    subprocess.run(command, cwd=folder, input=difference(name) + "\n", text=True, check=True)


def write(name: str, folder: Path) -> None:
    """Make the application of a tutorial, its tables included."""
    if name == "django":
        run(folder, UNREACHABLE, "django-admin", "startproject", "shop", ".")
        run(folder, UNREACHABLE, "django-admin", "startapp", "orders")
        with (folder / "shop/settings.py").open("a", encoding="utf-8") as settings:
            settings.write(next(text for _, _, text in fences(PAGES[name]) if text.startswith("INSTALLED_APPS +=")))
    for path, text in files(PAGES[name]).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    if name == "django":
        run(folder, UNREACHABLE, "python3", "manage.py", "makemigrations", "orders")
        run(folder, UNREACHABLE, "python3", "manage.py", "migrate")
    else:
        run(folder, UNREACHABLE, "python3", "-m", "shop.database")

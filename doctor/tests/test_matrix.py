"""The doctor beside each Celery that it promises to work with, on each Python that this Celery runs on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATH = f"{os.environ['PATH']}{os.pathsep}{ROOT / 'build/uv/bin'}"  # where scripts/env puts uv
PYTHONS = {  # of each release of Celery; 4.4 cannot be imported on a newer one, 5.7 needs 3.10
    "4.4.7": ("3.9", "3.10"),
    "5.2.7": ("3.9", "3.10", "3.11"),
    "5.4.0": ("3.9", "3.10", "3.11", "3.12", "3.13"),
    "5.6.3": ("3.9", "3.10", "3.11", "3.12", "3.13"),
    "5.7.0": ("3.10", "3.11", "3.12", "3.13"),
}
ALWAYS = {("4.4.7", "3.9"), ("5.7.0", "3.12")}  # an old and a new one; the others take minutes
PAIRS = [
    pytest.param(celery, python, marks=() if (celery, python) in ALWAYS else pytest.mark.long)
    for celery, pythons in PYTHONS.items()
    for python in pythons
]
TASKS = """
from celery import shared_task
@shared_task(bind=True, acks_late=False)
def early(self): ...
"""
APPS = {
    "redis": "app = Celery('shop', broker='redis://nowhere:1/0', include=['shop_tasks'])",
    "rabbit": "app = Celery('shop'); app.config_from_object('old'); app.conf.include = ['shop_tasks']",
}
OLD = "BROKER_URL = 'amqp://nowhere:1//'\nCELERY_ACKS_LATE = False\nCELERYD_PREFETCH_MULTIPLIER = 8\n"
PREFIXED = """
from celery import Celery
app = Celery()
app.config_from_object({"CELERY_BROKER_URL": "redis://nowhere:1", "CELERY_DEFAULT_QUEUE": "low"}, namespace="CELERY")
"""
SINCE = """
import celery
from celery_doctor.dialect import OPTIONS, SINCE
from celery_doctor.versions import number
have = number(celery.__version__)[:2]
print([name for name, since in SINCE.items() if (number(since) <= have) != (name in OPTIONS)])
"""


class Environment(NamedTuple):
    """An environment with one Celery and the doctor."""

    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=self.folder, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


def uv(*command: str | Path) -> str:
    done = subprocess.run(
        ["uv", *command], env=os.environ | {"PATH": PATH}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def interpreter(version: str) -> str:
    """Return a Python of this machine; where there is none, its version, which uv downloads."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))):
        if found and subprocess.run([found, "-V"], capture_output=True, check=False).returncode == 0:
            return str(found)  # a shim of pyenv exists for a version that is not active, too, and fails
    return version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", folder, ROOT / "doctor")
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize(("celery", "python"), PAIRS)
def test_it_judges_beside_this_celery_and_changes_nothing(
    tmp_path: Path, wheel: Path, celery: str, python: str
) -> None:
    folder = tmp_path / "venv"
    uv("venv", "--quiet", "--python", interpreter(python), folder)
    uv("pip", "install", "--quiet", "--python", folder, f"celery=={celery}", "redis", "setuptools<81")
    before = uv("pip", "freeze", "--python", folder)
    uv("pip", "install", "--quiet", "--python", folder, wheel)
    after = uv("pip", "freeze", "--python", folder)
    assert set(before.splitlines()) == {line for line in after.splitlines() if not line.startswith("celery-doctor")}

    there = Environment(folder)
    (folder / "shop_tasks.py").write_text(TASKS, encoding="utf-8")
    (folder / "old.py").write_text(OLD, encoding="utf-8")
    for name, source in APPS.items():
        (folder / f"{name}.py").write_text(f"from celery import Celery\n{source}\n", encoding="utf-8")
        done = there.run("celery-doctor", "-A", name, "--json", "--fix")
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        report = json.loads(done.stdout)
        rules = {one["rule"][:5] for one in report["findings"]}
        assert {one["state"] for one in report["findings"]} == {"found"}
        assert rules >= {"HF201", "HF202", "HF204", "HF501" if name == "redis" else "HF101"}
        written = [line for line in report["settings"] if not line.startswith("#")]
        assert ("CELERY_ACKS_LATE = True" if name == "rabbit" else "app.conf.task_acks_late = True") in written
    (folder / "prefixed.py").write_text(PREFIXED, encoding="utf-8")
    report = json.loads(there.run("celery-doctor", "-A", "prefixed", "--json").stdout)
    read = there.run("python", "-c", "from prefixed import app; print(app.conf.task_default_queue)").stdout.strip()
    ignored = "HF703-name-without-effect" in {one["rule"] for one in report["findings"]}
    assert (ignored, read) in {(True, "celery"), (False, "low")}  # Celery reads such a name from 5.7 on
    assert there.run("python", "-c", SINCE).stdout.strip() == "[]"

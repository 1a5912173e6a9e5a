"""The canary of the playbooks proves that a worker took its task: with nobody there it fails, whatever the settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CANARY = ROOT / "ansible/roles/app/files/canary.py"
APP = """
from celery import Celery
from kombu import Queue

app = Celery("proven", broker="filesystem://", backend="file://{folder}/results")
app.conf.broker_transport_options = {{
    "data_folder_in": "{folder}/data", "data_folder_out": "{folder}/data", "control_folder": "{folder}/control"
}}
app.conf.task_queues = [Queue("default"), Queue("critical")]
app.conf.update({settings})
"""


def canary(folder: Path, settings: str, seconds: float = 2) -> subprocess.CompletedProcess[str]:
    """Run it as the playbook does, on an application with a broker in a folder."""
    for name in ("data", "control", "results"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "proven.py").write_text(APP.format(folder=folder, settings=settings))
    return subprocess.run(
        [sys.executable, "-", "proven", str(seconds)],
        stdin=CANARY.open(),
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "task_ignore_result=True",
        "task_always_eager=True",
        "task_annotations={'*': {'ignore_result': True}}",
        "task_ignore_result=True, task_always_eager=True, task_store_eager_result=True",
    ],
)
def test_it_fails_against_nobody(tmp_path: Path, settings: str) -> None:
    done = canary(tmp_path, settings)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the queue default" in done.stderr
    assert "next:" in done.stderr


@pytest.mark.parametrize("settings", ["", "task_ignore_result=True"])
def test_it_passes_with_a_worker(tmp_path: Path, settings: str) -> None:
    """The control: the same application, and somebody who reads its queues."""
    assert canary(tmp_path, settings, 0.1).returncode == 1
    command = [sys.executable, "-m", "celery", "-A", "proven", "worker", "-P", "solo", "--without-mingle"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:
            done = canary(tmp_path, settings, 60)
        finally:
            worker.terminate()
    assert done.returncode == 0, done.stderr

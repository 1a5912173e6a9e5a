"""A set-up runs in a process of its own, with the folders of the command that started it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from variant import ENVIRONMENT

from drill.cli import Places, selftest
from drill.targets import Logins

if TYPE_CHECKING:
    from pathlib import Path

SAYS_FOLDER = """
import sys
options = dict(zip(sys.argv[1:], sys.argv[2:]))
print(options["--build"] + "/ledger/RUN")
"""


def test_the_process_of_a_set_up_writes_where_its_workers_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    popen, seen = subprocess.Popen, {}

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        seen.update(options["env"])
        return popen([sys.executable, "-c", SAYS_FOLDER, *command[3:]], **options)

    logins = Logins(str, ENVIRONMENT, ENVIRONMENT)
    monkeypatch.setattr(selftest, "Compose", lambda _project: SimpleNamespace(logins=lambda: logins))
    monkeypatch.setattr("drill.cli.selftest.subprocess.Popen", start)
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "DJANGO_SETTINGS_MODULE", "HOLDFAST_TLS_CA"):
        monkeypatch.setenv(name, "those-of-the-shell")
    run = tmp_path / "ledger/RUN"
    run.mkdir(parents=True)
    (run / "report.json").write_text(json.dumps({"counts": {"acknowledged": 1}}))
    report = selftest.run_set_up(Places.of_project("any", tmp_path), "control", 1)
    assert report["counts"]["acknowledged"] == 1
    assert seen["DRILL_LEDGER"] == str(tmp_path / "ledger")
    assert "those-of-the-shell" not in seen.values(), "the load would go to the servers of an application"
    assert seen["HOLDFAST_BROKER_URL"].endswith("/drill")
    assert seen["C_FORCE_ROOT"], "a set-up in pickle has no worker where the drill runs as root"


WAITS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job of a shell that is no terminal
signal.signal(signal.SIGTERM, signal.default_int_handler)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(30)
"""


def test_a_drill_that_is_ended_tells_its_set_up_in_the_background_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen, children = subprocess.Popen, []

    def start(_command: list[str], **options: Any) -> subprocess.Popen[str]:
        children.append(popen([sys.executable, "-c", WAITS], stderr=subprocess.DEVNULL, **options))
        return children[0]

    logins = Logins(str, ENVIRONMENT, ENVIRONMENT)
    monkeypatch.setattr(selftest, "Compose", lambda _project: SimpleNamespace(logins=lambda: logins))
    monkeypatch.setattr("drill.cli.selftest.subprocess.Popen", start)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            selftest.run_set_up(Places.of_project("any", tmp_path), "control", 1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert children[0].returncode in {1, -signal.SIGINT}, "the block that heals was reached"

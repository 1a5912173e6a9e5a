#!/usr/bin/env python3
"""Runs a command while tasks flow, and counts what became of each: ``under_load.py [options] -- COMMAND...``.

The drill's publisher and tasks keep the ledger, the workers run on this machine; broker and results are those of the
hosts that ``--env`` names. Exit code 0: the command succeeded, no publish failed, nothing acknowledged was lost.

    scripts/render ... ; ansible/lab/under_load.py --env OUT/secret/app.env -- scripts/play upgrade_rabbitmq
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drill.history import History

ROOT = Path(__file__).resolve().parents[2]
APP = "webhooks.app:app"
# what needs no database: here are neither the outbox nor the tasks that change rows
MIX = {"short": 70, "critical": 15, "retrying": 10, "eta": 5}
WAYS = {"single": 70, "bulk": 30}


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, required=True, help="environment of the application, rendered")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/under-load", help="for ledgers and logs")
    parser.add_argument("--rate", type=float, default=10.0, help="tasks per second")
    parser.add_argument("--calm", type=float, default=5.0, help="seconds of load before and after the command")
    parser.add_argument("--drain", type=float, default=180.0, help="seconds that the last tasks may take")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def start_worker(folder: Path) -> subprocess.Popen[bytes]:
    """Start a worker of all queues, with the soft shutdown that supervised ones have."""
    command = [
        *(sys.executable, "-m", "celery", "--quiet", "-A", APP, "worker"),
        *("-Q", os.environ["HOLDFAST_QUEUES"], "-c", "3", "-n", f"{folder.name}@%h", "--loglevel", "INFO"),
    ]
    with (folder / "worker.log").open("wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, "REMAP_SIGTERM": "SIGQUIT"}
        )


def start_publisher(folder: Path, rate: float) -> subprocess.Popen[bytes]:
    """Start a publisher that stops when its standard input ends."""
    from drill.publisher import Plan  # noqa: PLC0415 - the environment has to be set before

    plan = Plan(str(folder), folder.name, "publisher", 1, rate, 4, MIX, WAYS, APP)
    with (folder / "publisher.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "drill.publisher", json.dumps(vars(plan))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=folder,
        )


def read(folder: Path) -> History:
    """Return what the ledgers of the run say."""
    from drill import ledger  # noqa: PLC0415 - as above
    from drill.history import build  # noqa: PLC0415 - as above

    return build(ledger.read_all(folder, folder.name), folder.name)


def wait_until_done(folder: Path, seconds: float) -> None:
    """Wait until every acknowledged task has ended, or the time is over."""
    from drill.drain import unfinished  # noqa: PLC0415 - as above

    deadline = time.monotonic() + seconds
    while unfinished(read(folder)) and time.monotonic() < deadline:
        time.sleep(1)


def summary(folder: Path) -> dict[str, object]:
    """Count the outcomes; errors by their text."""
    from drill.checker import count  # noqa: PLC0415 - as above

    history = read(folder)
    sizes = count(history).sizes()
    names = ("attempted", "acknowledged", "unknown", "executed", "recovered", "duplicated", "lost", "unexpected")
    errors = Counter(outcome.error for outcome in history.outcomes.values() if outcome.error)
    return {**{name: sizes[name] for name in names}, "errors": dict(errors), "damage": history.unchecked}


def main() -> int:
    """Do it and print the counts."""
    arguments = options()
    folder: Path = (arguments.folder / f"{datetime.now(UTC):%H%M%S}").resolve()
    folder.mkdir(parents=True)
    sys.path.insert(0, str(ROOT))
    from drill.cli import read_env  # noqa: PLC0415 - the folder has to be on the path before

    os.environ |= read_env(arguments.env)
    os.environ |= {"DRILL_LEDGER": str(folder.parent), "HOLDFAST_IMPORTS": "drill.tasks", "PYTHONPATH": str(ROOT)}
    worker, publisher = start_worker(folder), start_publisher(folder, arguments.rate)
    try:
        time.sleep(arguments.calm)
        began = time.monotonic()
        code = subprocess.run(arguments.command, check=False).returncode
        took = time.monotonic() - began
        time.sleep(arguments.calm)
        publisher.communicate(timeout=120)
        wait_until_done(folder, arguments.drain)
    finally:
        publisher.kill()
        worker.terminate()
        worker.wait(60)
    counts = summary(folder)
    print(json.dumps({"command": code, "seconds": round(took), **counts}, indent=2))
    return int(bool(code or counts["lost"] or counts["unknown"] or counts["unexpected"] or counts["damage"]))


if __name__ == "__main__":
    sys.exit(main())

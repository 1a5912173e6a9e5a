"""Publishes in the middle of publishes, and from greenlets, against the cluster: nothing acknowledged is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .publishing import NODES, stored, urls

if TYPE_CHECKING:
    from .rig import Rig

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent
DEADLINE = 30.0  # as in storm_process.py


def report(rig: Rig, program: str, *arguments: str) -> dict[str, Any]:
    """Run a program of this folder that publishes to the scratch queue; return what it prints."""
    done = subprocess.run(
        [sys.executable, str(HERE / program), *arguments],
        env=rig.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", ["alarm", "forks", "soft_limit", "finalizers", "logs"])
def test_a_publish_inside_a_publish_harms_neither(rig: Rig, kind: str) -> None:
    found = report(rig, "storm_process.py", urls(rig, *NODES), rig.queue, kind, "5")
    assert found["errors"] == []
    assert found["hanging"] == 0
    assert found["inside"] > 10, "there was something in the middle of something"
    assert found["slowest"] < DEADLINE
    assert found["interrupted"] > 10 or kind != "soft_limit"
    assert set(found["acknowledged"]) <= set(stored(rig))


@pytest.mark.parametrize("library", ["eventlet", "gevent", "threads"])
def test_greenlets_publish_and_failures_leave_no_socket(rig: Rig, library: str) -> None:
    found = report(rig, "green_process.py", library, urls(rig, *NODES), rig.queue, "50", "10")
    assert found["errors"] == []
    assert len(found["acknowledged"]) == 50 * 10 + 500
    assert found["pause"] < 10, "other greenlets run meanwhile"
    assert found["left"] == 0
    assert set(found["acknowledged"]) == set(stored(rig))

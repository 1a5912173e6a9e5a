"""A thread of a worker's main process imports nothing: a child that is forked meanwhile waits for that module for ever.

It did: the thread of the audit opened its first connection, a child was forked, and hung when it stored a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from ..rig import APPS
from ..servers import free_ports
from ..stack import wait_until

if TYPE_CHECKING:
    from ..servers import OwnRig

pytestmark = pytest.mark.stack


def test_no_thread_of_a_worker_imports_a_module(own_rig: OwnRig) -> None:
    rig, port = own_rig, str(free_ports(1)[0])
    notes = rig.folder / "imports"
    extra: Any = {
        "HOLDFAST_AUDIT_SHARE": "1",
        "HOLDFAST_METRICS_PORT": port,
        "PYTHONPATH": f"{APPS}:{APPS / 'imports'}",
        "SCRATCH_IMPORTS": str(notes),
    }
    assert rig.servers
    store = rig.servers.redis
    with rig.worker(**extra) as before:
        rig.call("echo.delay('a note')", **extra)
        wait_until(lambda: rig.lines("end"), "it has run", 90)
        before.end()
    for owner in (rig.folder / "pulse").glob("audit-*/*.owner"):  # what a killed worker has left is sent at the start
        owner.with_suffix(".00000009").write_text(f"ended\t1\t+60.5 id\t{rig.queue} 0\n")
    with rig.worker(concurrency=2, **extra) as worker:
        rig.call("for n in range(20): echo.delay(n)", **extra)
        rig.drained()
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
            assert b"holdfast_tasks_total" in page.read()
        wait_until(lambda: store.exists("holdfast-audit:empty"), "the thread of the audit has asked the broker", 120)
        own = [line for line in notes.read_text().splitlines() if line.startswith(f"{worker.child.pid} ")]
    assert own == []


def test_the_note_of_an_import_is_taken(own_rig: OwnRig) -> None:
    """The control: what the other test looks for would be seen."""
    notes = own_rig.folder / "imports"
    code = "import threading; t = threading.Thread(target=lambda: __import__('this'), name='x'); t.start(); t.join()"
    extra: Any = {"PYTHONPATH": f"{APPS}:{APPS / 'imports'}", "SCRATCH_IMPORTS": str(notes)}
    own_rig.call(code, **extra)
    assert "x: this" in notes.read_text()

"""The running audit on real servers: 0 whatever is killed, and the exact number when acknowledged tasks are lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from ..rig import VHOST
from ..servers import container_of, free_ports, wait_for_broker
from ..stack import wait_until

if TYPE_CHECKING:
    from ..servers import OwnRig

pytestmark = pytest.mark.stack

LOOK = """
import json, time
from dataclasses import asdict
from redbeat.schedulers import get_redis
from holdfast.audit.auditor import Auditor
auditor = Auditor(app, get_redis(app), 600)
for later in (800, 900):  # the second look confirms the first
    verdict = auditor.look(time.time() + later)
print(json.dumps(asdict(verdict)))
"""
ON: Any = {"HOLDFAST_AUDIT_SHARE": "1"}


@dataclass
class Audited:
    """A scratch application whose tasks are all audited."""

    rig: OwnRig

    def publish(self, code: str) -> None:
        """Publish with a process of its own, whose notes are written when it ends."""
        self.rig.call(code, **ON)

    def notes(self, kind: str) -> int:
        """Return how many notes of a kind there are."""
        assert self.rig.servers
        client: Any = self.rig.servers.redis
        return sum(client.scard(key) for key in client.scan_iter(f"holdfast-audit:{kind}:*"))

    def forget(self, kind: str) -> None:
        """Delete the notes of a kind."""
        assert self.rig.servers
        client: Any = self.rig.servers.redis
        for key in client.scan_iter(f"holdfast-audit:{kind}:*"):
            client.delete(key)

    def look(self) -> dict[str, Any]:
        """Return what an auditor says who comes a quarter of an hour later; a queue found empty is still found so."""
        assert self.rig.servers
        client: Any = self.rig.servers.redis
        for queue in client.zrange("holdfast-audit:empty", 0, -1):
            client.zincrby("holdfast-audit:empty", 900, queue)
        nobody: Any = {"HOLDFAST_BROKER_URL": "amqp://nobody@127.0.0.1:1/"}  # beat's login may ask the broker nothing
        found: dict[str, Any] = json.loads(self.rig.call(LOOK, **ON, **nobody))
        return found

    def found_empty(self) -> None:
        """Wait until a worker has noted, from now on, that the queue is empty."""
        assert self.rig.servers
        client: Any = self.rig.servers.redis
        now = time()
        wait_until(
            lambda: (client.zscore("holdfast-audit:empty", self.rig.queue) or 0) > now, "the queue is found empty", 120
        )

    def all_noted(self, count: int) -> None:
        """Wait until the end of so many messages is noted."""
        wait_until(lambda: self.notes("ended") == count, f"{count} ends are noted", 120)


def _page(port: str) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return str(page.read(), "utf-8")


@pytest.fixture
def audited(own_rig: OwnRig) -> Audited:
    """A scratch application whose tasks are all audited."""
    return Audited(own_rig)


def test_what_ended_is_accounted_for_whatever_was_killed(audited: Audited) -> None:
    rig = audited.rig
    with rig.worker(concurrency=2, **ON) as worker:
        audited.publish("for n in range(100): echo.apply_async((n, 0.05), ignore_result=n % 2 == 0)")
        wait_until(lambda: len(rig.lines("end")) >= 20, "some have run", 90)
        worker.end()  # SIGKILL, to its children, too
    assert rig.servers
    subprocess.run(["docker", "restart", "-t", "0", container_of(rig.servers.broker)], check=True, capture_output=True)
    wait_for_broker(rig.servers.broker_url)
    assert audited.notes("acked") == 100
    with rig.worker(concurrency=2, **ON):
        audited.publish("again.delay(0, 2)")  # three messages of one task
        wait_until(lambda: len(rig.runs("end")) == 100 and len(rig.lines("again")) == 3, "all have run", 180)
        rig.drained()
        audited.all_noted(103)
        verdict = audited.look()
    assert (verdict["unaccounted"], verdict["undecided"], verdict["oldest"]) == (0, 0, 0)
    assert audited.notes("acked") == audited.notes("ended") == 0, "what has both notes is taken out"


def test_the_counter_rises_by_the_number_of_lost_tasks(audited: Audited) -> None:
    rig = audited.rig
    audited.publish("for n in range(7): echo.delay(n)")
    rig.api("DELETE", f"queues/{VHOST}/{rig.queue}/contents")
    assert audited.look()["unaccounted"] == 0, "nobody consumes: for all that the notes say, they may wait"
    with rig.worker(**ON):
        audited.publish("for n in range(60): echo.delay(n, 0.2)")
        wait_until(lambda: len(rig.runs("end")) >= 5, "some have run", 90)
        rig.api("DELETE", f"queues/{VHOST}/{rig.queue}/contents")
        rig.drained()
        executed = len(rig.runs("end"))
        audited.all_noted(executed)
        audited.found_empty()
        verdict = audited.look()
    assert executed < 60, "the queue was purged too late"
    assert (verdict["unaccounted"], verdict["undecided"]) == (7 + 60 - executed, 0), "what the ledger of runs misses"
    assert verdict["oldest"] > 600


def test_what_waits_runs_or_died_is_not_lost(audited: Audited) -> None:
    rig = audited.rig
    rig.declare(delivery_limit=1)
    release = rig.folder / "release"
    audited.publish("echo.apply_async((0,), countdown=3600)")
    with rig.worker(concurrency=2, **ON):
        audited.publish(f"poison.delay(); hold.delay(1, {str(release)!r})")
        wait_until(lambda: rig.depth(rig.dead)[0] == 1 and rig.lines("echo"), "one is dead, one runs", 120)
        audited.forget("held")  # the one that is dead now may have been noted while it ran
        wait_until(lambda: audited.notes("held"), "it is noted that one runs", 120)
        wait_until(lambda: audited.notes("returned") == 1, "it is noted that one was returned", 120)
        audited.found_empty()
        verdict = audited.look()
    assert (verdict["unaccounted"], verdict["undecided"]) == (0, 1), "the dead letter alone is undecided"
    release.touch()
    with rig.worker(concurrency=2, **ON):
        rig.drained(120)
        audited.all_noted(1)
    assert audited.look()["unaccounted"] == 0


def test_the_active_beat_shows_the_counter(audited: Audited) -> None:
    rig = audited.rig
    port = str(free_ports(1)[0])
    audited.publish("echo.delay(1)")
    with rig.process("beat", "--pidfile=", HOLDFAST_METRICS_PORT=port, SCRATCH_AUDIT_AFTER="10", **ON):
        wait_until(lambda: "holdfast_tasks_unaccounted 0.0" in _page(port), "the page has the counter", 180)
        assert {"holdfast_tasks_undecided", "holdfast_audit_oldest_open_age_seconds"} <= set(_page(port).split())


def test_without_a_share_nothing_is_noted(audited: Audited) -> None:
    rig = audited.rig
    with rig.worker():
        rig.call("echo.delay(1)")
        wait_until(lambda: rig.runs("end"), "it has run", 90)
        rig.drained()
    assert audited.notes("*") == 0


def test_the_notes_of_a_stopped_worker_are_written(audited: Audited) -> None:
    rig = audited.rig
    with rig.worker(**ON) as worker:
        audited.publish("for n in range(20): echo.delay(n)")
        wait_until(lambda: len(rig.runs("end")) == 20, "all have run", 90)
        os.kill(worker.child.pid, signal.SIGTERM)
        wait_until(lambda: not worker.alive, "it has stopped", 90)
    # the last one may have run and not been acknowledged yet: then it is back, or held back for a moment
    wait_until(lambda: audited.notes("ended") + rig.depth()[0] == 20, "each is noted or goes back", 60)
    assert audited.notes("ended") >= 19
    assert not list((rig.folder / "pulse").glob("audit-*/*")), "its files are gone"

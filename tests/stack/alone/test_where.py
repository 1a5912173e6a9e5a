"""``holdfast where`` follows tasks through real servers: outbox, delay, worker, result, dead letter."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..rig import VHOST
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..servers import OwnRig

pytestmark = pytest.mark.stack

ENQUEUE = """
from sqlalchemy import create_engine
from holdfast import outbox
engine = create_engine({url!r})
outbox.metadata.create_all(engine)
with engine.begin() as connection:
    print(outbox.enqueue(connection, echo.s(1)))
"""


def ask(rig: OwnRig, task_id: str, **extra: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code of ``holdfast where`` and what it says."""
    holdfast = str(Path(sys.executable).with_name("holdfast"))
    done = subprocess.run(
        [holdfast, "where", "-A", "scratch", "--json", task_id],
        env=rig.environment(**extra),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=rig.folder,
    )
    assert done.returncode in {0, 1, 2}, done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def where(rig: OwnRig, task_id: str, code: int, **extra: str) -> dict[str, Any]:
    """Return what ``holdfast where`` says, and check its exit code."""
    found, story = ask(rig, task_id, **extra)
    assert found == code, story
    return story


@contextmanager
def letter_queues(rig: OwnRig) -> Iterator[None]:
    """Give the broker the queues of dead letters that the definitions make."""
    paths = [f"queues/{VHOST}/{name}" for name in ("dead", "unrouted")]
    for path in paths:
        rig.api("PUT", path, {"durable": True, "arguments": {"x-queue-type": "quorum"}})
    try:
        yield
    finally:
        for path in paths:
            rig.api("DELETE", path)


def test_a_task_is_found_wherever_it_is(own_rig: OwnRig, tmp_path: Path) -> None:
    database, release = {"HOLDFAST_OUTBOX_URL": f"sqlite:///{tmp_path}/outbox.db"}, tmp_path / "release"
    with letter_queues(own_rig):
        assert where(own_rig, "nobody", 1)["places"] == dict.fromkeys(["workers", "result", "dead", "unrouted"])

        row = own_rig.call(ENQUEUE.format(url=database["HOLDFAST_OUTBOX_URL"]))
        assert "waits in the outbox" in where(own_rig, row, 0, **database)["meaning"]

        own_rig.call("echo.apply_async((1,), task_id='delayed', countdown=3600)")
        own_rig.call(f"hold.apply_async((1, {str(release)!r}), task_id='runs')\necho.delay(2)")
        assert "it waits in a queue for a free worker, or for its time" in where(own_rig, "delayed", 1)["meaning"]

        with own_rig.worker(concurrency=1) as worker:
            wait_until(lambda: own_rig.runs("echo"), "it has begun", 60)
            # a worker of a busy machine may answer too late for one question
            wait_until(lambda: "active on " in ask(own_rig, "runs")[1]["meaning"], "its worker says so", 120)
            release.touch()
            wait_until(lambda: own_rig.runs("end").keys() >= {"2"}, "both have ended", 60)
            assert worker.alive
            assert where(own_rig, "runs", 0)["places"]["result"]["state"] == "SUCCESS"

        message = {"routing_key": "dead", "payload": "[[1], {}, {}]", "payload_encoding": "string"}
        headers = {"headers": {"id": "gone", "task": "scratch.echo"}}
        own_rig.api("POST", f"exchanges/{VHOST}/amq.default/publish", message | {"properties": headers})
        assert "dead -A APP --queue dead replay --task-id gone" in where(own_rig, "gone", 0)["meaning"]


def test_a_place_that_cannot_be_asked_is_named(own_rig: OwnRig) -> None:
    story = where(own_rig, "nobody", 2)
    assert story["silent"].keys() == {"dead", "unrouted"}, "this broker has no such queues"
    assert "not every place could be asked: dead, unrouted" in story["meaning"]

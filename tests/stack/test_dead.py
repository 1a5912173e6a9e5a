"""``holdfast dead`` on the real broker: looking changes nothing, and a message leaves only when its copy is safe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from .rig import VHOST, Rig
from .stack import wait_until

pytestmark = pytest.mark.stack


def dead_letters(rig: Rig, count: int) -> list[str]:
    """Let ``count`` tasks die in the scratch queue; return their ids."""
    ids = [f"task-{number}" for number in range(count)]
    for task_id in ids:
        rig.publish("[[1, 0], {}, {}]", {"id": task_id, "task": "scratch.echo", "lang": "py", "retries": 2})
    wait_until(lambda: rig.depth() == (count, 0), "the messages are in the queue")
    refuse = {"count": count, "ackmode": "reject_requeue_false", "encoding": "auto"}
    assert len(rig.api("POST", f"queues/{VHOST}/{rig.queue}/get", refuse)) == count
    wait_until(lambda: rig.depth(rig.dead) == (count, 0), "the messages are dead")
    return ids


def dead(rig: Rig, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``holdfast dead`` on the scratch dead-letter queue."""
    holdfast = str(Path(sys.executable).with_name("holdfast"))
    command = [holdfast, "dead", "-A", "scratch", "--queue", rig.dead, *arguments]
    return subprocess.run(
        command, env=rig.environment(), capture_output=True, text=True, timeout=120, check=False, cwd=rig.folder
    )


def listed(rig: Rig) -> list[dict[str, Any]]:
    result = dead(rig, "list", "--json")
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def wait_listed(rig: Rig, *ids: str) -> list[dict[str, Any]]:
    """Wait until these are listed and no others: what a look hands back is there a moment later."""

    def found() -> list[dict[str, Any]]:
        letters = listed(rig)
        if sorted(letter["task_id"] for letter in letters) != sorted(ids):
            raise ValueError(letters)
        return letters

    return wait_until(found, f"{ids} are in {rig.dead}")


def test_looking_any_number_of_times_loses_nothing(rig: Rig) -> None:
    ids = dead_letters(rig, 3)

    rig.call(
        "from time import monotonic\n"
        "from holdfast.dead import open_office\n"
        "for _ in range(25):  # the queue's delivery limit is 20\n"
        "    end, seen = monotonic() + 60, 0\n"
        "    while seen < 3:  # what the last look handed back is there a moment later\n"
        "        assert monotonic() < end, seen\n"
        f"        with open_office(app, {rig.dead!r}) as office:\n"
        "            seen = len(list(office.letters()))\n"
    )

    letters = wait_listed(rig, *ids)
    assert {(letter["queue"], letter["reason"]) for letter in letters} == {(rig.queue, "rejected")}


def test_a_replay_moves_one_message_back_with_a_new_life(rig: Rig) -> None:
    dead_letters(rig, 3)

    result = dead(rig, "replay", "--task-id", "task-1")

    assert result.returncode == 0, result.stderr
    wait_listed(rig, "task-0", "task-2")
    (message,) = rig.get(rig.queue)
    headers = message["properties"]["headers"]
    assert (headers["id"], headers["retries"], headers["holdfast-replay"]) == ("task-1", 0, 1)
    assert not [name for name in headers if "death" in name]
    assert json.loads(message["payload"]) == [[1, 0], {}, {}]


def test_what_is_replayed_runs(rig: Rig) -> None:
    ids = dead_letters(rig, 5)
    assert dead(rig, "replay", "--all", "--limit", "2").stdout.splitlines()[-1] == "2 replayed."
    wait_until(lambda: rig.depth(rig.dead) == (3, 0), "the others are handed back")
    assert dead(rig, "replay", "--all").stdout.splitlines()[-1] == "3 replayed."

    with rig.worker():
        wait_until(lambda: {line[2] for line in rig.lines("end")} == set(ids), "all replayed tasks ran")
    assert listed(rig) == []


def test_a_replay_that_no_queue_takes_leaves_the_message(rig: Rig) -> None:
    ids = dead_letters(rig, 1)
    rig.declare(max_length=1)

    def full() -> bool:
        try:
            rig.publish("[[0, 0], {}, {}]", {"id": "fills the queue", "task": "scratch.echo"})
        except HTTPError:
            return True
        return False

    wait_until(full, "the queue says that it is full")  # it takes a few more than its limit before

    result = dead(rig, "replay", "--all")

    assert result.returncode == 1
    assert "not replayed task-0: the broker answered no" in result.stderr
    wait_listed(rig, *ids)


def test_what_is_discarded_is_kept_in_a_file_with_the_reason(rig: Rig, tmp_path: Path) -> None:
    dead_letters(rig, 2)
    keep = tmp_path / "kept.jsonl"

    result = dead(rig, "discard", "--task-id", "task-0", "--reason", "sent by mistake", "--yes", "--keep", str(keep))

    assert result.returncode == 0, result.stderr
    wait_listed(rig, "task-1")
    (record,) = (json.loads(line) for line in keep.read_text(encoding="utf-8").splitlines())
    assert (record["task_id"], record["discarded_because"]) == ("task-0", "sent by mistake")
    assert json.loads(record["body"]) == [[1, 0], {}, {}]


def test_an_unknown_task_is_named(rig: Rig) -> None:
    dead_letters(rig, 1)
    result = dead(rig, "show", "--task-id", "nobody")
    assert result.returncode == 1
    assert f"No message of the task nobody in the queue {rig.dead}" in result.stderr

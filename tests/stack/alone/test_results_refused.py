"""What the result store will never take ends its task after one run, with a reason; what it may take is waited for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ..servers import LOGIN
from ..stack import wait_until

if TYPE_CHECKING:
    from ..servers import OwnRig, Servers

pytestmark = pytest.mark.stack

MIB = 1024 * 1024


def meta(rig: OwnRig, task_id: str) -> dict[str, Any]:
    """Return what the store holds of a task, without asking the layer."""
    assert rig.servers
    found = rig.servers.redis.get(f"celery-task-meta-{task_id}")
    return json.loads(found) if isinstance(found, str) else {"status": "nothing"}


def wait_failed(rig: OwnRig, task_id: str, *reason: str) -> None:
    """Wait until the task lies among the dead letters, and look for the reason in what it stored."""
    wait_until(lambda: rig.depth(rig.dead)[0] == 1, "the message is a dead letter", 120)
    wait_until(lambda: rig.depth() == (0, 0), "nothing of it goes round", 60)
    stored = meta(rig, task_id)
    assert stored["status"] == "FAILURE"
    for word in reason:
        assert word in str(stored["result"]), stored


def test_a_result_above_the_limit_is_never_sent(own_rig: OwnRig) -> None:
    with own_rig.worker():
        own_rig.call(f"large.apply_async(args=({17 * MIB},), task_id='t')")
        wait_failed(own_rig, "t", "16777216 are allowed", "holdfast_result_max_bytes")
    assert own_rig.runs("large").total() == 1


def test_a_value_above_the_bulk_limit_of_redis(own_rig: OwnRig, servers: Servers) -> None:
    with servers.configured(proto_max_bulk_len=str(MIB)), own_rig.worker():
        own_rig.call(f"large.apply_async(args=({3 * MIB},), task_id='t')")
        wait_failed(own_rig, "t", "proto-max-bulk-len")
        own_rig.call("echo.apply_async(args=('after',), task_id='after')")
        wait_until(lambda: meta(own_rig, "after")["status"] == "SUCCESS", "the next result is stored")
    assert own_rig.runs("large").total() == 1


def test_a_value_above_the_query_buffer_of_redis(own_rig: OwnRig, servers: Servers) -> None:
    with servers.configured(client_query_buffer_limit=str(MIB)), own_rig.worker():
        own_rig.call(f"large.apply_async(args=({5 * MIB},), task_id='t')")
        wait_failed(own_rig, "t", "client-query-buffer-limit")
    assert own_rig.runs("large").total() == 1


def test_a_value_that_the_empty_redis_has_no_room_for(own_rig: OwnRig, servers: Servers) -> None:
    with servers.configured(maxmemory="12mb"), own_rig.worker():
        own_rig.call(f"large.apply_async(args=({12 * MIB},), task_id='t')")
        wait_failed(own_rig, "t", "maxmemory")
    assert own_rig.runs("large").total() == 1


def test_a_full_redis_is_waited_for(own_rig: OwnRig, servers: Servers) -> None:
    servers.redis.set("ballast", "x" * 8 * MIB)
    with servers.configured(maxmemory="9mb"), own_rig.worker(SCRATCH_PATIENCE="1"):
        own_rig.call("echo.apply_async(args=('x',), task_id='t')")
        wait_until(lambda: own_rig.runs("end")["x"] >= 2, "it goes back and runs again", 120)
        assert own_rig.depth(own_rig.dead) == (0, 0)
        servers.redis.delete("ballast")
        wait_until(lambda: meta(own_rig, "t")["status"] == "SUCCESS", "its result is stored", 60)
    assert own_rig.depth(own_rig.dead) == (0, 0)


@pytest.mark.parametrize("right", ["-set", "-waitaof", "-@all +@connection"], ids=str)
def test_a_user_that_loses_the_right_to_store(own_rig: OwnRig, servers: Servers, right: str) -> None:
    """Not even the short failure can be stored: the reason is in the log, the message among the dead letters."""
    servers.redis.execute_command("ACL", "SETUSER", "lame", "on", f">{LOGIN}", "~*", "&*", "+@all")
    with own_rig.worker(HOLDFAST_RESULT_URL=servers.redis_url("lame")) as worker:
        servers.redis.execute_command("ACL", "SETUSER", "lame", *right.split())  # without it, no worker starts
        own_rig.call("echo.apply_async(args=('x',), task_id='t')")
        wait_until(lambda: own_rig.depth(own_rig.dead)[0] == 1, "the message is a dead letter", 60)
        worker.wait_for("Task t ends as FAILURE, and nothing can tell who waits for it", 60)
        assert "no permissions" in worker.text
    assert own_rig.runs("echo").total() == 1
    servers.redis.execute_command("ACL", "DELUSER", "lame")
    servers.redis.acl_log_reset()


def test_a_key_that_holds_something_else(own_rig: OwnRig, servers: Servers) -> None:
    servers.redis.rpush("celery-task-meta-t", "list")
    with own_rig.worker():
        own_rig.call("echo.apply_async(args=('x',), task_id='t')")
        wait_until(lambda: own_rig.depth(own_rig.dead)[0] == 1, "the message is a dead letter", 60)
    assert own_rig.runs("echo").total() == 1


def test_a_result_that_cannot_be_serialised(own_rig: OwnRig) -> None:
    with own_rig.worker():
        own_rig.call("odd.apply_async(task_id='t')")
        wait_failed(own_rig, "t", "not JSON serializable")
    assert own_rig.runs("odd").total() == 1


def test_a_failure_that_is_too_large_is_stored_in_short(own_rig: OwnRig) -> None:
    with own_rig.worker():
        own_rig.call(f"large.apply_async(args=({17 * MIB}, True), task_id='t')")
        wait_failed(own_rig, "t", "ValueError", "are allowed")
    assert own_rig.runs("large").total() == 1


def test_a_chord_whose_part_is_refused_fails_with_the_reason(own_rig: OwnRig) -> None:
    code = f"""
from celery import chord
from holdfast.results import get
result = chord([echo.s(1), large.s({17 * MIB})], total.s().set(task_id='body'))()
try:
    get(result, 60)
except Exception as error:
    print(type(error).__name__, error)
"""
    with own_rig.worker():
        said = own_rig.call(code, seconds=120)
        assert said.startswith("ResultRefused"), "the error of the member, as stock Celery passes it on"
        assert "are allowed" in said
        wait_until(lambda: meta(own_rig, "body")["status"] == "FAILURE", "the chord's body has failed", 60)
    assert not own_rig.runs("total")


def test_a_chord_whose_counter_is_something_else_fails(own_rig: OwnRig, servers: Servers) -> None:
    code = f"""
from celery import chord
from redis import Redis
body = total.s().set(task_id='body')
header = [echo.s(n).set(countdown=5) for n in range(2)]
group = chord(header, body).apply_async().parent.id
Redis(port={servers.primary}).set(f"celery-taskset-meta-{{group}}.j", "no sorted set")  # before a part has ended
"""
    with own_rig.worker():
        own_rig.call(code)
        wait_until(lambda: meta(own_rig, "body")["status"] == "FAILURE", "the chord's body has failed", 60)
        wait_until(lambda: own_rig.depth() == (0, 0), "nothing goes round", 60)
    assert set(own_rig.runs("echo").values()) == {1}
    assert "WRONGTYPE" in str(meta(own_rig, "body")["result"])


def test_news_that_are_refused_fail_no_task(own_rig: OwnRig) -> None:
    code = f"""
app.backend.store_result("t", {{"log": "x" * {17 * MIB}}}, "PROGRESS")
print(app.backend.get_state("t"))
"""
    assert own_rig.call(code) == "PENDING"

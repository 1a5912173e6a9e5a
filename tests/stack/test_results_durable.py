"""Results that were reported stored survive a failover; a task whose result cannot be stored is not acknowledged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from .stack import wait_until

if TYPE_CHECKING:
    from .rig import Rig

pytestmark = pytest.mark.stack

DATA = ("redis1", "redis2", "redis3")


def replicas(rig: Rig) -> list[str]:
    """Return the services that are not primary now."""
    primary = rig.stack.redis_primary()
    return [name for name in DATA if name != primary]


STORE_AND_COUNT = """
import json, os, signal
stored = []
for number in range(40):
    app.backend.store_result(f"id{number}", number, "SUCCESS")
print(app.backend.client.connection_pool.get_master_address()[0])
"""
STORE_ONE = """
from holdfast.request import PutBack
try:
    app.backend.store_result("one", 1, "SUCCESS")
    print("stored by", app.backend.confirmations())
except PutBack:
    print("not stored")
"""
STORE_TWICE = """
app.backend.store_result("twice", None, "STARTED")
app.backend.store_result("twice", ValueError("cancelled"), "RETRY")
between = app.backend.get_state("twice")
app.backend.store_result("twice", 1, "SUCCESS")
app.backend.store_result("twice", ValueError("cancelled"), "RETRY")
print(between, app.backend.get_task_meta("twice", cache=False)["status"])
"""
HEAR = """
import json
listener = app.backend.client.pubsub()
listener.subscribe(*(app.backend.get_key_for_task(f"heard{n}") for n in range(3)))
for _ in range(3):  # the answers to the subscriptions
    listener.get_message(timeout=10)
for n in range(3):
    app.backend.store_result(f"heard{n}", n, "SUCCESS")
heard = []
for _ in range(100):
    message = listener.get_message(timeout=0.2)
    heard += [json.loads(message["data"])["result"]] if message else []
    if len(heard) == 3:
        break
print(heard)
"""
NOTE_CHORD = """
from redis.exceptions import RedisError
try:
    app.backend.set_chord_size("group", 2)
    print("noted")
except RedisError:
    print("not noted")
"""
READ_ALL = """
import json
print(json.dumps([app.backend.get_task_meta(f"id{n}", cache=False)["result"] for n in range(40)]))
"""


def test_a_stored_result_survives_the_loss_of_the_primary_in_the_next_moment(rig: Rig) -> None:
    primary = rig.stack.redis_primary()
    address = rig.call(STORE_AND_COUNT)
    with rig.paused(primary):
        assert address == rig.stack.address(primary)
        wait_until(lambda: rig.stack.redis_primary() != primary, "another primary")
        assert json.loads(rig.call(READ_ALL)) == list(range(40))
    rig.stack.wait_healthy(*DATA)


def test_every_replica_that_is_up_confirms_and_a_dead_one_is_not_waited_for(rig: Rig) -> None:
    wait_until(lambda: rig.call(STORE_ONE) == "stored by 2", "both replicas confirm")
    with rig.paused(replicas(rig)[0]):
        wait_until(lambda: rig.call(STORE_ONE) == "stored by 1", "Sentinel calls it down")
    rig.stack.wait_healthy(*DATA)
    wait_until(lambda: rig.call(STORE_ONE) == "stored by 2", "it counts again")


def test_a_task_that_succeeded_is_not_called_off_by_its_late_twin(rig: Rig) -> None:
    assert rig.call(STORE_TWICE) == "RETRY SUCCESS"


def test_who_waits_for_a_result_hears_of_it(rig: Rig) -> None:
    assert rig.call(HEAR) == "[0, 1, 2]"


def test_the_size_of_a_chord_is_noted_for_good_or_not_at_all(rig: Rig) -> None:
    with rig.paused(*replicas(rig)):
        assert rig.call(NOTE_CHORD, SCRATCH_PATIENCE="2") == "not noted"
    rig.stack.wait_healthy(*DATA)
    wait_until(lambda: rig.call(NOTE_CHORD) == "noted", "a replica notes it")


def test_without_a_replica_no_result_counts_as_stored_and_no_task_as_failed(rig: Rig) -> None:
    rig.declare(delivery_limit=1)
    with rig.worker(SCRATCH_PATIENCE="2"):
        with rig.paused(*replicas(rig)):
            rig.call("echo.apply_async(args=('x',), task_id='x')")
            wait_until(lambda: rig.runs("end")["x"] >= 4, "it is handed out again, beyond the delivery limit")
            assert rig.depth(rig.dead) == (0, 0)
        rig.drained()
        assert rig.call("print(app.AsyncResult('x').state)") == "SUCCESS"
    assert rig.depth(rig.dead) == (0, 0)


def test_a_worker_lives_while_the_store_is_away_and_settles_what_it_held(rig: Rig) -> None:
    nowhere = "sentinel://app:none@127.0.0.1:1/0"
    with rig.worker(HOLDFAST_RESULT_URL=nowhere) as worker:
        rig.publish("[[1], {}, {}]", {"id": "late", "task": "scratch.echo", "expires": "2020-01-01T00:00:00+00:00"})
        rig.publish("[[], {}, {}]", {"id": "unknown", "task": "scratch.nothing"})
        worker.wait_for("State of task scratch.echo[late] cannot be recorded now", times=2)
        wait_until(lambda: rig.depth(rig.dead) == (1, 0), "the unknown task is in the dead-letter queue")
        assert worker.alive
    with rig.worker():
        rig.drained()
    assert rig.call("print(app.AsyncResult('late').state)") == "REVOKED"
    assert not rig.runs("echo")


def test_stock_celery_ends_when_an_expired_task_arrives_while_the_store_is_away(rig: Rig) -> None:
    with rig.worker(STOCK="1", HOLDFAST_RESULT_URL="sentinel://app:none@127.0.0.1:1/0") as worker:
        rig.publish('[["first"], {}, {}]', {"id": "first", "task": "scratch.echo", "ignore_result": True})
        # in the tenth of a second before its loop begins, the error would be passed over (_quick_drain)
        wait_until(lambda: rig.runs("end") == {"first": 1}, "its loop runs tasks")
        rig.publish("[[1], {}, {}]", {"id": "late", "task": "scratch.echo", "expires": "2020-01-01T00:00:00+00:00"})
        wait_until(lambda: not worker.alive, "the worker has ended", 240)
    wait_until(lambda: rig.depth() == (1, 0), "it waits for the next worker to end at")


def test_no_result_is_lost_or_false_when_the_primary_changes_under_load(rig: Rig) -> None:
    send = "for n in range(200): echo.apply_async(args=(n, 0.02), task_id=f'id{n}')"
    read = (
        "import json; print(json.dumps([app.AsyncResult(f'id{n}')._get_task_meta() for n in range(200)], default=str))"
    )
    with rig.worker(concurrency=2):
        rig.call(send)
        wait_until(lambda: len(rig.runs("end")) > 30, "some have run")
        primary = rig.stack.redis_primary()
        with rig.paused(primary):
            wait_until(lambda: rig.stack.redis_primary() != primary, "another primary")
            rig.drained(240)
    metas = json.loads(rig.call(read))
    assert [(meta["status"], meta["result"]) for meta in metas] == [("SUCCESS", n) for n in range(200)]
    assert rig.depth(rig.dead) == (0, 0)
    rig.stack.wait_healthy(*DATA)


def test_a_chord_ends_although_the_primary_dies_and_get_waits_for_it(rig: Rig) -> None:
    code = """
from celery import chord, group
from holdfast.results import get
import subprocess, sys
result = chord(group(echo.s(n, 0.2) for n in range(40)), total.s())()
subprocess.run(sys.argv[1:] or ["docker", "kill", "--signal", "KILL", PRIMARY], check=True, stdout=subprocess.DEVNULL)
print(get(result, 180))
"""
    primary = rig.stack.redis_primary()
    with rig.worker(concurrency=2):
        try:
            code = code.replace("PRIMARY", repr(rig.stack.container(primary)))
            assert rig.call(code) == str(sum(range(40)))
        finally:
            rig.stack.run("docker", "start", rig.stack.container(primary))
            rig.stack.wait_healthy(*DATA)
    assert set(rig.runs("end")) == {str(n) for n in range(40)}
    assert rig.runs("total") == {"40": 1}

"""The sample application on the real stack, nothing broken: deliveries, results, delays, retries, dead letters."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from ..stack import CommandFailedError, wait_until

if TYPE_CHECKING:
    from ..hook import Hook
    from ..stack import Stack

pytestmark = pytest.mark.stack


def test_a_batch_arrives_and_ends_in_a_report(stack: Stack, hook: Hook) -> None:
    hook.send_many(40)

    counts = hook.wait_delivered(40)

    assert counts == {"requests": 40, "accepted": 40, "unique": 40, "duplicates": 0, "refused": 0}
    report = wait_until(lambda: json.loads(stack.webhooks("report", "--json")), "the chord's report")
    assert (report["total"], report["delivered"], report["dead"], report["pending"]) == (40, 40, 0, 0)


@pytest.mark.parametrize("queue", ["default", "critical"])
def test_the_result_is_readable(stack: Stack, hook: Hook, queue: str) -> None:
    task_id = hook.send("--queue", queue, "--wait", "120")

    assert f"'delivery': '{task_id}'" in stack.result(task_id)


def test_a_countdown_waits_in_the_broker(stack: Stack, hook: Hook) -> None:
    sent = time.time()
    hook.send("--delay", "20")

    def delayed() -> int:
        rows = stack.rabbitmqctl("list_queues", "-p", "holdfast", "name", "messages")
        return sum(int(row["messages"]) for row in rows if row["name"].startswith("celery_delayed_"))

    wait_until(delayed, "a message in a queue of the native delay", deadline=20)  # counts are up to 5 s old
    hook.wait_delivered(1)
    assert time.time() - sent >= 20


def test_a_temporary_failure_is_tried_again(hook: Hook) -> None:
    hook.answers(fail_next=2, status=503)

    hook.send("--wait", "120")

    assert hook.counts() == {"requests": 3, "accepted": 1, "unique": 1, "duplicates": 0, "refused": 2}


def test_a_final_failure_is_dead_and_can_be_replayed(stack: Stack, hook: Hook) -> None:
    hook.answers(fail_next=-1, status=410)
    task_id = hook.send()

    def dead() -> list[dict[str, str]]:
        letters = map(json.loads, stack.operator("dead", "list", "--limit", "10000", "--json").splitlines())
        return [letter for letter in letters if letter["task_id"] == task_id]

    (letter,) = wait_until(dead, "the delivery in the dead-letter queue")
    assert (letter["queue"], letter["reason"]) == ("default", "rejected")

    def told() -> bool:
        story = json.loads(stack.operator("where", task_id, "--json"))
        if not story["meaning"].startswith("in the queue dead (rejected)") or story["silent"]:
            raise ValueError(story)
        return True

    wait_until(told, "where says it, and this login may ask every place")

    hook.answers()
    stack.operator("dead", "replay", "--task-id", task_id)

    hook.wait_delivered(1)
    assert dead() == []


def test_an_unknown_queue_is_refused_before_anything_is_stored(stack: Stack, hook: Hook) -> None:
    before = stack.webhooks("status", "--json")
    with pytest.raises(CommandFailedError, match=r"no queue 'typo'; allowed: critical, default"):
        hook.send("--queue", "typo")
    assert json.loads(stack.webhooks("status", "--json"))["pending"] <= json.loads(before)["pending"]
    assert hook.counts()["requests"] == 0

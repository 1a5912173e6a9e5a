"""A secret in the address and the payload of a delivery reaches the database and the receiver, and no other place."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from redis import Redis

from .stack import http_json, login, password, prometheus, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .hook import Hook
    from .stack import Stack

pytestmark = pytest.mark.stack


def logs(stack: Stack, since: float) -> str:
    """Return what all containers have logged since a time, in seconds since the epoch."""
    return stack.compose("logs", "--no-color", "--since", str(int(since)))


def stored(client: Redis) -> Iterator[str]:
    """Yield every key of a Redis with its value."""
    read: dict[str, Any] = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    for key in client.scan_iter(count=1000):
        kind: Any = client.type(key)
        if kind != "none":  # it has expired meanwhile
            yield f"{key} {read[kind](key)}"


def in_redis(stack: Stack, *words: str) -> dict[str, int]:
    """Return in how many entries of the primary each word is."""
    address, secret = stack.address(stack.redis_primary()), password("REDIS_ADMIN_PASSWORD")
    with Redis(address, username="admin", password=secret, encoding_errors="replace", decode_responses=True) as client:
        everything = list(stored(client))
    return {word: sum(word in entry for entry in everything) for word in words}


def flower(path: str) -> str:
    """Return a page of Flower."""
    request = urllib.request.Request(f"http://127.0.0.1:5555/{path}", headers=login("FLOWER_PASSWORD"))
    with urllib.request.urlopen(request, timeout=60) as page:  # noqa: S310 - this machine
        return str(page.read(), "utf-8")


def letters(stack: Stack, task_id: str) -> list[str]:
    """Return the dead letters of a task, as the operator's command shows them."""
    shown = stack.operator("dead", "list", "--limit", "10000", "--json").splitlines()
    return [line for line in shown if json.loads(line)["task_id"] == task_id]


def test_a_secret_is_at_the_receiver_and_in_no_other_place(stack: Stack, hook: Hook) -> None:
    began, canary = time.time(), f"canary-{uuid4().hex}"

    def send() -> str:
        return stack.webhooks("send", f"{hook.url}?key={canary}", json.dumps({"key": canary})).splitlines()[0]

    hook.answers(fail_next=1, status=503)
    delivered = send()  # at the second attempt
    hook.wait_delivered(1)
    hook.answers(fail_next=-1, status=410)
    refused = send()
    (letter,) = wait_until(lambda: letters(stack, refused), "the refused delivery is a dead letter")
    wait_until(lambda: "SUCCESS" in flower(f"task/{delivered}"), "Flower knows how the first one ended")
    wait_until(lambda: delivered in logs(stack, began), "a worker's log names it")
    entries = in_redis(stack, canary, delivered, refused)
    series = json.dumps(prometheus(f"series?match[]={{__name__=~'holdfast_.%2b'}}&start={int(began)}"))

    assert canary in json.dumps(http_json(f"{hook.base}/log?path={hook.path}")), "the secret was never sent"
    assert entries[delivered], "the search of Redis finds nothing, not even a result"
    assert "holdfast_tasks_total" in series, "the search of the metrics finds nothing"
    places = {
        "the logs": logs(stack, began),
        "Flower": flower(f"task/{delivered}") + flower(f"task/{refused}") + flower("tasks"),
        "a dead letter": letter,
        "the metrics": series,
    }
    assert [place for place, text in places.items() if canary in text] == []
    assert entries[canary] == 0

"""The doctor on the running stack: it finds nothing there, and it finds what is made unsafe."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from .stack import password, wait_until

if TYPE_CHECKING:
    from .stack import Stack

pytestmark = pytest.mark.stack


def examine(stack: Stack) -> dict[str, Any]:
    primary = stack.address(stack.redis_primary())
    answer: dict[str, Any] = json.loads(
        stack.holdfast(
            "doctor", "-A", "webhooks.app", "--live", "--json",
            "--management", f"http://admin:{password('RABBITMQ_ADMIN_PASSWORD')}@{stack.address('rabbit1')}:15672",
            "--redis", f"redis://admin:{password('REDIS_ADMIN_PASSWORD')}@{primary}:6379",
            check=False,
        )
    )  # fmt: skip
    return answer


def test_the_stack_is_sound(stack: Stack) -> None:
    wait_until(lambda: examine(stack)["findings"] == [], "the doctor finds nothing", deadline=120)

    # of a stand-in's Redis, INFO does not tell whether the distribution has mended it
    assert [text for text in examine(stack)["skipped"] if "INFO does not say" not in text] == []


def test_an_unsafe_queue_and_a_raised_alarm_are_found(stack: Stack) -> None:
    stack.inside("rabbit1", "rabbitmqctl", "set_disk_free_limit", "mem_relative", "1000.0")
    stack.inside(
        "rabbit1", "rabbitmqctl", "set_policy", "-p", "holdfast", "unsafe", "^critical$",
        '{"max-length": 1000000}', "--priority", "100", "--apply-to", "quorum_queues",
    )  # fmt: skip
    wanted = {"HF813-dead-lettering", "HF815-overflow", "HF818-alarm"}
    try:
        wait_until(
            lambda: wanted <= {finding["rule"] for finding in examine(stack)["findings"]}, f"{wanted} are found", 30
        )
    finally:
        stack.inside("rabbit1", "rabbitmqctl", "clear_policy", "-p", "holdfast", "unsafe")
        stack.inside("rabbit1", "rabbitmqctl", "set_disk_free_limit", "2GB")

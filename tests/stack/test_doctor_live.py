"""The doctor on the running stack: it finds nothing there, and it finds what is made unsafe."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .stack import Stack, made, password, wait_until

pytestmark = pytest.mark.stack


@pytest.fixture
def worker() -> Stack:
    """The stack, asked with the login of a worker: a publisher's may not look at queues."""
    return Stack(made()["environment"]["worker"])


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


def test_the_stack_is_sound(worker: Stack) -> None:
    def sound() -> bool:
        told = examine(worker)
        # of a stand-in's Redis, INFO does not tell whether the distribution has mended it
        skipped = [text for text in told["skipped"] if "INFO does not say" not in text]
        if skipped or told["findings"]:  # a test before may be healing
            raise ValueError(skipped, told["findings"])
        return True

    wait_until(sound, "the doctor finds nothing and skips nothing", 240)


def test_what_a_publisher_may_not_see_is_skipped_and_said(stack: Stack) -> None:
    def said() -> bool:
        told = examine(stack)
        skipped = {text[:5] for text in told["skipped"] if "ask with the login of a worker" in text}
        if (skipped, told["findings"]) != ({"HF802", "HF803", "HF804"}, []):
            raise ValueError(skipped, told["findings"])
        return True

    wait_until(said, "the three are skipped and nothing is found", 240)


def test_an_unsafe_queue_and_a_raised_alarm_are_found(worker: Stack) -> None:
    def ask(*command: str, check: bool = True) -> bool:
        worker.inside("rabbit1", "rabbitmqctl", *command, check=check)
        return True

    wanted = {"HF813-dead-lettering", "HF815-overflow", "HF818-alarm"}
    try:
        ask("set_disk_free_limit", "mem_relative", "1000.0")
        ask(
            "set_policy", "-p", "holdfast", "unsafe", "^critical$",
            '{"max-length": 1000000}', "--priority", "100", "--apply-to", "quorum_queues",
        )  # fmt: skip
        wait_until(lambda: wanted <= {one["rule"] for one in examine(worker)["findings"]}, f"{wanted} are found")
    finally:
        wait_until(lambda: ask("set_disk_free_limit", "2GB"), "the alarm is over")
        wait_until(lambda: ask("clear_policy", "-p", "holdfast", "unsafe", check=False), "the policy is gone")

"""Flower as a person sees it, in a real browser; and that tasks do not notice what happens to Flower."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from .stack import password, wait_until

if TYPE_CHECKING:
    from .browser import Browser
    from .rig import Rig
    from .stack import Stack

pytestmark = pytest.mark.stack
ADDRESS = "127.0.0.1:5555"  # as compose shows it on this machine


def at(path: str) -> str:
    """Return the address of a page of Flower, with its login."""
    return f"http://admin:{password('FLOWER_PASSWORD')}@{ADDRESS}/{path}"


def test_nobody_enters_without_the_password(stack: Stack) -> None:
    stack.wait_healthy("flower")
    for path in ("workers", "tasks", "api/workers"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{ADDRESS}/{path}", timeout=60)
        assert caught.value.code == 401


def test_a_browser_shows_workers_and_tasks_also_after_a_restart(stack: Stack, rig: Rig, browser: Browser) -> None:
    with rig.worker():
        good, bad = rig.call("print(echo.delay('seen').id); print(echo.delay('unseen', 'no number').id)").split()
        wait_until(lambda: rig.depth(rig.dead) == (1, 0), "the failed task lies in the dead-letter queue")
        browser.wait_for(at("workers"), "default@worker1", "critical@worker2")
        browser.wait_for(at(f"task/{good}"), "scratch.echo", "SUCCESS")
        browser.wait_for(at(f"task/{bad}"), "scratch.echo", "FAILURE", "TypeError")
        browser.wait_for(at("tasks"), good, bad)
    # time to write down what it knows
    stack.run("docker", "restart", "--timeout", "60", stack.container("flower"), seconds=180)
    stack.wait_healthy("flower")
    browser.wait_for(at(f"task/{good}"), "SUCCESS")
    browser.wait_for(at(f"task/{bad}"), "FAILURE")


def test_tasks_do_not_notice_a_frozen_or_killed_flower(stack: Stack, rig: Rig) -> None:
    def ten(step: str) -> None:
        rig.call(f"[echo.delay('{step}') for n in range(10)]")
        wait_until(lambda: rig.runs("echo")[step] == 10, f"ten tasks run, Flower {step}")

    container = stack.container("flower")
    try:
        with rig.worker(2):
            stack.run("docker", "pause", container)
            ten("frozen")
            stack.run("docker", "kill", container)  # ends a frozen one, too
            ten("killed")
            rig.drained()
    finally:
        stack.run("docker", "unpause", container, check=False)
        stack.run("docker", "start", container)
        stack.wait_healthy("flower")

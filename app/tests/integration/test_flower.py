"""Flower lets nobody in without its password, and tasks do not notice what happens to Flower."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from .stack import wait_until

if TYPE_CHECKING:
    from .rig import Rig
    from .stack import Stack

pytestmark = pytest.mark.stack
ADDRESS = "127.0.0.1:5555"  # as compose shows it on this machine


def test_nobody_enters_without_the_password(stack: Stack) -> None:
    stack.wait_healthy("flower")
    for path in ("workers", "tasks", "api/workers"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{ADDRESS}/{path}", timeout=5)
        assert caught.value.code == 401


def test_tasks_do_not_notice_a_frozen_or_killed_flower(stack: Stack, rig: Rig) -> None:
    def ten(step: str) -> None:
        rig.call(f"[echo.delay('{step}') for n in range(10)]")
        wait_until(lambda: rig.runs("echo")[step] == 10, f"ten tasks run, Flower {step}", 20)

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

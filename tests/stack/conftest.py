"""Fixtures of the tests that need the running stack; without an engine they fail, they never skip."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from .browser import Browser
from .hook import Hook
from .rig import Rig
from .servers import own_rig, servers
from .stack import Stack, read_settings, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["own_rig", "servers"]  # fixtures

HOW_TO_GET_ONE = "run `make up` (on Debian or Ubuntu as root it installs Docker and Compose itself)"


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The local stack, checked to be up."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.fail(f"found no running Docker engine; these tests need one: {HOW_TO_GET_ONE}")
    stack = Stack(read_settings())
    if not stack.container("rabbit1"):
        pytest.fail(f"found Docker, but the local stack is not up; next step: {HOW_TO_GET_ONE}")
    return stack


@pytest.fixture
def hook(stack: Stack, tmp_path: Path) -> Hook:
    """A path of the receiver for this test alone."""
    return Hook(stack, tmp_path)


@pytest.fixture
def rig(stack: Stack, tmp_path: Path) -> Iterator[Rig]:
    """A scratch queue on the cluster, for workers of the test's own."""
    rig = Rig(stack, tmp_path)
    wait_until(rig.together, "the brokers have healed after the test before")
    try:
        rig.declare()
        yield rig
    finally:
        rig.remove()


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """A browser with a profile of its own."""
    return Browser(tmp_path / "profile")

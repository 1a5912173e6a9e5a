"""The servers know every command of theirs that a runbook names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from .stack import ROOT, password

if TYPE_CHECKING:
    from .stack import Stack

pytestmark = pytest.mark.stack

TEXT = "\n".join(path.read_text() for path in sorted((ROOT / "monitoring/runbooks").glob("*.md")))


@pytest.mark.parametrize("tool", ["rabbitmqctl", "rabbitmq-diagnostics", "rabbitmq-queues"])
def test_rabbitmq_has_the_command(stack: Stack, tool: str) -> None:
    named = set(re.findall(rf"\b{tool} ([a-z_]+)", TEXT))
    known = set(re.findall(r"^\s+([a-z_]+)\s", stack.inside("rabbit1", tool, "help"), re.MULTILINE))
    assert named
    assert named <= known


@pytest.mark.parametrize(("service", "port"), [("redis1", "6379"), ("sentinel1", "26379")])
def test_redis_has_the_command(stack: Stack, service: str, port: str) -> None:
    login = password("REDIS_MONITOR_PASSWORD")
    lines = re.findall(r"\bredis-cli (-p 26379 )?--user \w+ ([a-z]+) ?([a-z-]*)", TEXT)
    mine = {(name, sub) for option, name, sub in lines if bool(option) == (port == "26379")}
    assert mine
    for name, sub in mine:
        full = f"{name}|{sub}" if name == "sentinel" else name
        answer = stack.inside(
            service, "env", f"REDISCLI_AUTH={login}", "redis-cli", "-p", port, "--user", "monitor",
            "--no-auth-warning", "command", "info", full,
        )  # fmt: skip
        assert answer.splitlines()[0] == full

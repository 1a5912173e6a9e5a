"""The servers know every command of theirs that a runbook names, and let the login that it names run it."""

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


READS = sorted(set(re.findall(r"\bredis-cli ((?:-p 26379 )?--user monitor [a-z][\w -]*)", TEXT)))


@pytest.mark.parametrize("line", READS)
def test_redis_answers_the_login_that_the_line_names(stack: Stack, line: str) -> None:
    login = f"REDISCLI_AUTH={password('REDIS_MONITOR_PASSWORD')}"
    service = "sentinel1" if "-p 26379" in line else "redis1"
    answer = stack.inside(service, "env", login, "redis-cli", "-e", "--no-auth-warning", *line.split())
    assert not answer.startswith(("NOPERM", "ERR", "NOAUTH")), answer


def test_the_check_of_lines_can_fail(stack: Stack) -> None:
    assert len(READS) > 5
    login = f"REDISCLI_AUTH={password('REDIS_MONITOR_PASSWORD')}"
    refused = ("redis-cli", "--no-auth-warning", "--user", "monitor", "config", "get", "masterauth")
    assert stack.inside("redis1", "env", login, *refused).startswith("NOPERM")

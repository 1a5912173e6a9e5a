"""Every alert has a runbook, and what a runbook names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from drill.faults import REGISTRY
from holdfast import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "monitoring/runbooks").glob("*.md"))
RULES = " ".join(path.read_text() for path in (ROOT / "monitoring/rules").glob("*.yml"))
SERVER_TOOLS = {"rabbitmqctl", "rabbitmq-diagnostics", "rabbitmq-queues", "redis-cli"}  # asked in test_runbooks_live.py
SYSTEM_TOOLS = {"df", "du", "openssl", "redis-check-aof", "systemctl", "journalctl"}
SERVICES = yaml.safe_load((ROOT / "compose/compose.yaml").read_text())["services"]
SUPERVISOR = {"status", "start", "restart"}
TOOLS = SERVER_TOOLS | SYSTEM_TOOLS | {"holdfast", "supervisorctl", "docker", "make", "promtool", "amtool"}


def commands(page: Path) -> list[list[str]]:
    """Return the commands of a page: lines that begin with a dollar, and code in a sentence that begins with a tool."""
    text = page.read_text()
    found = re.findall(r"^\s*\$ (.+)$", text, re.MULTILINE)
    found += [code for code in re.findall(r"`([^`\n]+)`", text) if code.split()[0] in TOOLS and " " in code]
    return [shlex.split(line) for line in found]


def words(command: list[str]) -> list[str]:
    """Return the arguments that are no option of the tool itself."""
    return [word for word in command[1:] if not word.startswith("-")]


def holdfast_has(names: list[str]) -> bool:
    """Tell whether the layer's command line has a command; the value of an option in between is skipped."""
    found: click.Command | None = cli.main
    for name in names:
        if isinstance(found, click.Group) and name != "unrouted":  # the value of --queue
            found = found.get_command(click.Context(found), name)
    return found is not None and not isinstance(found, click.Group)


def exists(command: list[str]) -> bool:
    """Tell whether a command exists; those of the servers are asked in test_runbooks_live.py."""
    tool, rest = command[0], words(command)
    checks = {
        "holdfast": lambda: holdfast_has(rest),
        "make": lambda: f"\n{rest[0]}:" in (ROOT / "Makefile").read_text(),
        "docker": lambda: rest[0] == "compose" and rest[1] in {"ps", "stop"} and rest[2] in SERVICES,
        "supervisorctl": lambda: rest[1] in SUPERVISOR,
        "promtool": lambda: rest[:2] == ["query", "instant"],
        "amtool": lambda: rest[0] == "check-config" or rest[:2] == ["alert", "query"],
    }
    return checks[tool]() if tool in checks else tool in SERVER_TOOLS | SYSTEM_TOOLS


def test_every_alert_has_a_runbook_and_none_is_left_over() -> None:
    assert {page.stem for page in PAGES} == set(re.findall(r"alert: (\w+)", RULES))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_runbook_is_complete(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation", "Drill"]
    assert "```console\n$ " in text.partition("## Diagnosis")[2].partition("## Mitigation")[0]
    row = text.partition("## Drill\n")[2]
    named = re.findall(r"Reproduced by (.+?)\.", row, re.DOTALL)
    assert named or "No drill row: " in row
    assert {name for line in named for name in re.findall(r"`([^`]+)`", line)} <= REGISTRY.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_runbook_exists(page: Path) -> None:
    found = commands(page)
    assert found
    assert [" ".join(command) for command in found if not exists(command)] == []


# What the servers and programs print while nothing is wrong.
HEALTHY = re.compile(
    r"reported no alarms|is fully booted and running|Up \d+ minutes \(healthy\)"
    r"|^rabbit@rabbit1\nrabbit@rabbit2\nrabbit@rabbit3$"
    r"|^\w+: ok\n\w+: ok$|^default +0 +0 +2$|connected_slaves:2|OK 3 usable|SUCCESS$|aof_last_write_status:ok",
    re.MULTILINE,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_healthy_output_is_not_shown_as_the_failure(page: Path) -> None:
    for lead, block in re.findall(r"^([^\n`#].*?)\n\n```console\n(.+?)```", page.read_text(), re.MULTILINE | re.DOTALL):
        if HEALTHY.search(block):
            assert re.search(r"health|expected", lead.rpartition("\n\n")[2], re.IGNORECASE), block


def test_the_check_of_healthy_outputs_can_fail() -> None:
    assert HEALTHY.search("Node rabbit@rabbit1 reported no alarms, local or clusterwide")
    assert not HEALTHY.search("Free disk space alarm on node rabbit@rabbit1")

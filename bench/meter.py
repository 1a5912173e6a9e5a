"""Processor time and memory of what takes part: process groups of the benchmark, and the containers of the servers."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

from bench.cluster import ROOT

_CGROUPS = Path("/sys/fs/cgroup")
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def groups(*ids: int) -> float:
    """Return the seconds of processor time that process groups have used, with children that have ended.

    Args:
        ids: of the process groups.
    """
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # proc_pid_stat(5) from its third on
            if int(fields[2]) in ids:
                ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICK


def servers() -> float:
    """Return the seconds of processor time that the stack's brokers and stores have used."""
    return sum(_used(account) for account in _accounts().values())


def brokers() -> dict[str, int]:
    """Return the resident memory of each broker in bytes, by the name of its service."""
    return {
        name: sum(resident(int(pid)) for pid in account.with_name("cgroup.procs").read_text().split())
        for name, account in sorted(_accounts().items())
        if name.startswith("rabbit")
    }


def resident(process: int) -> int:
    """Return the resident memory of a process in bytes, 0 when it has ended.

    Args:
        process: its id.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    return 0


def machine() -> float:
    """Return the seconds of processor time that all of this machine has used."""
    user, nice, system, _, _, irq, softirq, *_ = (
        int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICK


def _used(account: Path) -> float:
    text = account.read_text()
    if account.name == "cpuacct.usage":
        return int(text) / 1e9
    return int(text.split()[1]) / 1e6  # usage_usec is the first line of cpu.stat


@cache
def _accounts() -> dict[str, Path]:
    """Return the kernel's account of each service's container: of cgroup v2, or of v1."""
    services = [f"{name}{n}" for name in ("rabbit", "redis", "sentinel") for n in (1, 2, 3)] + ["postgres"]
    ids = subprocess.run(
        ["docker", "compose", "ps", "-q", *services], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    answer = '{{index .Config.Labels "com.docker.compose.service"}} {{.State.Pid}}'
    lines = subprocess.run(
        ["docker", "inspect", "-f", answer, *ids], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    pairs = [line.split() for line in lines]
    return {service: _account(Path(f"/proc/{pid}/cgroup").read_text()) for service, pid in pairs}


def _account(lines: str) -> Path:
    for line in lines.splitlines():
        _, controllers, path = line.split(":", 2)
        for found in (_CGROUPS / "cpuacct" / path[1:] / "cpuacct.usage", _CGROUPS / path[1:] / "cpu.stat"):
            if controllers.split(",")[-1:] in (["cpuacct"], [""]) and found.exists():
                return found
    raise SystemExit(f"no account of processor time in {lines!r}; allowed are cgroup v2 and v1 with cpuacct")

"""Every unit that the roles write or configure has a sandbox, which systemd rates, and its service runs in it."""

from __future__ import annotations

import re

import pytest

from .lab import hosts, on

pytestmark = pytest.mark.lab

UNITS = {
    "supervisor": "app",
    "holdfast-flower": "flower",
    "rabbitmq-server": "rabbitmq",
    "redis-server": "redis",
    "redis-sentinel": "sentinel",
    "prometheus": "prometheus",
    "prometheus-redis-exporter": "prometheus",
    "prometheus-alertmanager": "alertmanager",
    "prometheus-node-exporter": "all",
    "holdfast-certificates": "all",
    "holdfast-firewall": "all",
    "holdfast-firewall-check": "all",
    "holdfast-receiver": "lab_receiver",
}
MOST = 4.0  # 10 is a unit without any limit


def exposure(unit: str, host: str) -> float:
    """Return how systemd rates a unit."""
    said = on(host, f"systemd-analyze security --no-pager {unit}.service | tail -n 1")
    level = re.search(r"exposure level for \S+: ([\d.]+)", said)
    assert level, said
    return float(level[1])


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_exposed_little(unit: str) -> None:
    assert exposure(unit, hosts(UNITS[unit])[0]) < MOST


def test_a_unit_without_a_sandbox_is_exposed() -> None:
    """The control: the SSH server needs the whole system."""
    assert exposure("ssh", hosts("all")[0]) > MOST


@pytest.mark.parametrize("unit", UNITS)
def test_it_runs_and_leaves_no_memory_dump(unit: str) -> None:
    for host in hosts(UNITS[unit]):
        said = on(host, f"systemctl show {unit} --property LimitCORE,Result,NoNewPrivileges,ActiveState")
        assert "LimitCORE=0\n" in said
        assert "NoNewPrivileges=yes" in said
        assert "Result=success" in said
        assert "ActiveState=failed" not in said


def test_the_programs_of_a_host_have_limits_and_are_set_to_go_on_without_a_killed_child() -> None:
    said = on(hosts("app")[0], "systemctl show supervisor --property OOMPolicy,MemoryMax,TasksMax")
    assert "OOMPolicy=continue" in said
    assert "infinity" not in said

"""An inventory with which nothing can run is refused before anything is changed, and what is allowed is said."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .commands import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

GROUPS = ("rabbitmq", "redis", "sentinel")


def inventory() -> dict[str, Any]:
    """Return an inventory of three hosts, which is right."""
    hosts = {f"data{number}": {"holdfast_address": f"192.0.2.{number}"} for number in (1, 2, 3)}
    children: dict[str, Any] = {group: {"hosts": {host: {} for host in hosts}} for group in GROUPS}
    variables = {
        "ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "holdfast_passwords": {"redis_app": "x" * 24, "flower": "x" * 24},
        "app_time_limit": 1500, "rabbitmq_consumer_timeout": 3_600_000,
    }  # fmt: skip
    return {"all": {"hosts": hosts, "children": children, "vars": variables}}


def fewer_brokers(everything: dict[str, Any]) -> None:
    del everything["children"]["rabbitmq"]["hosts"]["data3"]


def more_sentinels(everything: dict[str, Any]) -> None:
    everything["hosts"]["data4"] = {"holdfast_address": "192.0.2.4"}
    everything["children"]["sentinel"]["hosts"]["data4"] = {}


def fewer_stores(everything: dict[str, Any]) -> None:
    del everything["children"]["redis"]["hosts"]["data3"]


def one_address(everything: dict[str, Any]) -> None:
    everything["hosts"]["data3"] = everything["hosts"]["data2"]


def one_name(everything: dict[str, Any]) -> None:
    everything["hosts"]["data1.other"] = {"holdfast_address": "192.0.2.9"}


def an_empty_password(everything: dict[str, Any]) -> None:
    everything["vars"]["holdfast_passwords"]["flower"] = ""


def a_long_task(everything: dict[str, Any]) -> None:
    everything["vars"]["app_time_limit"] = 3600


def checked(folder: Path, change: Callable[[dict[str, Any]], None] | None) -> tuple[int, str]:
    """Run the check of an inventory with one change; return its exit code and what it says."""
    wanted = inventory()
    if change:
        change(wanted["all"])
    check = {"ansible.builtin.include_role": {"name": "holdfast.stack.preflight", "tasks_from": "inventory"}}
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [check]}]))
    (folder / "hosts.yml").write_text(json.dumps(wanted))  # JSON is YAML, and writes what stands twice twice
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", folder / "hosts.yml", folder / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "changed=0" in done.stdout, done.stdout + done.stderr
    return done.returncode, " ".join(done.stdout.split())


def test_three_hosts_are_taken(tmp_path: Path) -> None:
    code, said = checked(tmp_path, None)
    assert code == 0, said


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (fewer_brokers, "2 host(s) in the group rabbitmq"),
        (more_sentinels, "4 host(s) in the group sentinel"),
        (fewer_stores, "2 host(s) in the group redis"),
        (one_address, "3 hosts with 2 addresses"),
        (one_name, "two hosts with the same first label: data1, data1, data2, data3"),
        (an_empty_password, "no value for flower in holdfast_passwords"),
        (a_long_task, "app_time_limit 3600 s, rabbitmq_consumer_timeout 3600000 ms"),
    ],
)
def test_another_inventory_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], found: str) -> None:
    code, said = checked(tmp_path, change)
    assert code != 0
    assert f"found: {found} allowed: " in said, said
    assert " next: " in said

"""A system that nobody has run the roles on is refused by name before anything is changed, with the remedy."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from .commands import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

DEFAULTS = yaml.safe_load((ROOT / "ansible/roles/preflight/defaults/main.yml").read_text(encoding="utf-8"))
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
FIRST = 'add "{0}" to preflight_systems'
OTHER = "use another host: the roles install packages of Debian"


def checked(folder: Path, facts: dict[str, str], systems: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the check of a host with these facts."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"preflight_systems": systems} if systems else {},
        "tasks": [
            {"ansible.builtin.set_fact": {**facts, "cacheable": True}},
            {"ansible.builtin.include_role": {"name": "holdfast.stack.preflight", "tasks_from": "system"}},
        ],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"localhost": LOCAL}}}))
    return subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", folder / "hosts.yml", folder / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def facts(system: str, family: str = "Debian", manager: str = "systemd") -> dict[str, str]:
    name, _, release = system.rpartition(" ")
    return {
        "distribution": name, "distribution_release": release, "distribution_version": "1",
        "os_family": family, "service_mgr": manager,
    }  # fmt: skip


def test_a_system_on_which_everything_has_been_run_is_taken(tmp_path: Path) -> None:
    for system in DEFAULTS["preflight_systems"]:
        done = checked(tmp_path, facts(system))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("system", "family", "manager", "next_step"),
    [
        ("Debian bookworm", "Debian", "systemd", FIRST),
        ("Ubuntu resolute", "Debian", "systemd", FIRST),
        ("Debian forky", "Debian", "sysvinit", OTHER),
        ("Rocky Blue Onyx", "RedHat", "systemd", OTHER),
        ("RedHat Plow", "RedHat", "systemd", OTHER),
    ],
)
def test_another_system_is_refused_by_name(
    tmp_path: Path, system: str, family: str, manager: str, next_step: str
) -> None:
    done = checked(tmp_path, facts(system, family, manager))
    assert done.returncode != 0
    assert "changed=0" in done.stdout
    said = " ".join(done.stdout.split())
    assert f"found: {system} (1) with {manager} on localhost" in said, said
    assert f"allowed: {', '.join(DEFAULTS['preflight_systems'])}, with systemd" in said
    assert next_step.format(system) in said


def test_an_inventory_may_name_one_more(tmp_path: Path) -> None:
    assert checked(tmp_path, facts("Ubuntu resolute"), ["Debian forky", "Ubuntu resolute"]).returncode == 0

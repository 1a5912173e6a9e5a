"""A rotation ends when a host does not answer, before it starts or on its way: the others go no further."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
HERE = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
SERVERS = {
    "node1": {"holdfast_address": "127.0.0.1", "ansible_host": "127.0.0.1", "ansible_port": 1},  # nobody answers there
    "node2": {"holdfast_address": "127.0.0.2", **HERE},
    "node3": {"holdfast_address": "127.0.0.3", **HERE},
}


PARTS = ROOT / "ansible/playbooks/parts"
LOSE: dict[str, Any] = {
    "hosts": "all", "gather_facts": False, "any_errors_fatal": True, "serial": 1,
    "tasks": [{"ansible.builtin.command": "true", "check_mode": False}],
}  # fmt: skip
GOES_ON: dict[str, Any] = {
    "hosts": "work1",
    "gather_facts": False,
    "tasks": [{"ansible.builtin.debug": {"msg": "work1 goes on"}}],
}


@pytest.mark.slow
def run(folder: Path, *plays: dict[str, Any]) -> str:
    """Run plays in check mode on three servers, of which one does not answer, and on a worker; return what is said."""
    children = {name: {"hosts": dict.fromkeys(SERVERS)} for name in ("rabbitmq", "redis", "sentinel")}
    hosts = {"all": {"hosts": SERVERS | {"work1": HERE}, "children": children}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
    (folder / "play.yml").write_text(yaml.safe_dump(list(plays)))
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "--check", "-i", folder / "hosts.yml", folder / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "UNREACHABLE" in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_no_host_goes_on_while_a_server_does_not_answer(tmp_path: Path) -> None:
    said = run(tmp_path, {"ansible.builtin.import_playbook": str(PARTS / "ready.yml")}, GOES_ON)
    assert "work1 goes on" not in said


@pytest.mark.slow
def test_a_host_that_was_lost_on_the_way_ends_the_run(tmp_path: Path) -> None:
    assert "work1 goes on" in run(tmp_path, LOSE, GOES_ON), "Ansible itself ends the run"
    said = run(tmp_path, LOSE, {"ansible.builtin.import_playbook": str(PARTS / "reached.yml")}, GOES_ON)
    assert "no answer from node1" in said
    assert "work1 goes on" not in said


def test_no_host_gets_a_certificate_after_another_was_lost(tmp_path: Path) -> None:
    said = run(tmp_path, LOSE, {"ansible.builtin.import_playbook": str(PARTS / "certificates.yml")})
    assert "no answer from node1" in said
    assert "Write keys, certificates and authorities" not in said


@pytest.mark.parametrize(
    ("playbook", "step"),
    [
        ("rotate_authority", "Let the next authority sign"),
        ("rotate_authority", "End the rotation"),
        ("rotate_secrets", "Forget the old secrets"),
    ],
)
def test_a_step_that_shuts_out_who_missed_the_one_before_looks_first(playbook: str, step: str) -> None:
    plays = yaml.safe_load((ROOT / f"ansible/playbooks/{playbook}.yml").read_text())
    at = [play["name"] for play in plays].index(step)
    assert plays[at - 1]["ansible.builtin.import_playbook"] == "parts/reached.yml"

"""A rotation ends before the first change when a server does not answer: the hosts of other groups go no further."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
HERE = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
SERVERS = {
    "node1": {"holdfast_address": "127.0.0.1", "ansible_host": "127.0.0.1", "ansible_port": 1},  # nobody answers there
    "node2": {"holdfast_address": "127.0.0.2", **HERE},
    "node3": {"holdfast_address": "127.0.0.3", **HERE},
}


def test_no_host_goes_on_while_a_server_does_not_answer(tmp_path: Path) -> None:
    children = {name: {"hosts": dict.fromkeys(SERVERS)} for name in ("rabbitmq", "redis", "sentinel")}
    hosts = {"all": {"hosts": SERVERS | {"work1": HERE}, "children": children}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    play = [
        {"ansible.builtin.import_playbook": str(ROOT / "ansible/playbooks/parts/ready.yml")},
        {"hosts": "work1", "gather_facts": False, "tasks": [{"ansible.builtin.debug": {"msg": "work1 goes on"}}]},
    ]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", tmp_path / "hosts.yml", tmp_path / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "UNREACHABLE" in done.stdout
    assert "work1 goes on" not in done.stdout

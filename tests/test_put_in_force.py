"""A run that ended between a file and its handler is completed by the next one, although the file has not changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ANSIBLE = ROOT / "ansible"
WRITTEN = {
    "redis/tasks/users.yml": "Load the users of Redis",
    "sentinel/tasks/users.yml": "Load the users of Sentinel",
    "rabbitmq/tasks/users.yml": "Import the definitions",
    "firewall/tasks/main.yml": "Reload the firewall",
}


def tasks(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks, also those of blocks."""
    return [task for item in items for task in (tasks(item["block"]) if "block" in item else [item])]


@pytest.mark.slow
def run(folder: Path, **variables: Any) -> set[str]:
    """Run the tasks that write these files, with a file in place of the template; return the handlers that ran."""
    (folder / "content").write_text("as it should be\n")
    variables |= {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    play: dict[str, Any] = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [], "handlers": []}
    for number, (name, handler) in enumerate(WRITTEN.items()):
        found = tasks(yaml.safe_load((ANSIBLE / "roles" / name).read_text()))
        (task,) = (one for one in found if one.get("notify") == handler)
        template = {"src": str(folder / "content"), "dest": str(folder / f"file{number}")}
        play["tasks"].append(task | {"ansible.builtin.template": template})
        play["handlers"].append({"name": handler, "ansible.builtin.debug": {"msg": "in force"}})
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", "-c", "local", folder / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg")},
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {handler for handler in WRITTEN.values() if f"RUNNING HANDLER [{handler}]" in done.stdout}


def test_what_was_only_written_is_put_in_force(tmp_path: Path) -> None:
    assert run(tmp_path) == set(WRITTEN.values()), "a new file"
    assert run(tmp_path) == set(), "the control: an unchanged file"
    assert run(tmp_path, put_in_force=True) == set(WRITTEN.values())


@pytest.mark.parametrize("playbook", ["issue_client", "rotate_secrets"])
def test_the_plays_that_change_logins_ask_for_it(playbook: str) -> None:
    plays = yaml.safe_load((ANSIBLE / f"playbooks/{playbook}.yml").read_text())
    (play,) = (one for one in plays if any(
        task.get("ansible.builtin.include_role", {}).get("tasks_from") == "users" for task in one.get("tasks", [])
    ))  # fmt: skip
    assert play["vars"]["put_in_force"] is True

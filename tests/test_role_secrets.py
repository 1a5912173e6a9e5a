"""No task of a role shows a key or a password in its output, whatever options a playbook is run with."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
WRITES = ("copy", "template", "blockinfile", "lineinfile")  # render shows no difference
SECRET = re.compile(
    r"\.key\b|tls_client_dir }}/{{|secret|password|\.env\b|environment_file|users|cookie|acl|rdb"
    r"|definitions\.json"
    r"|redis\.conf|sentinel\.conf|web\.yml|alertmanager\.yml|redis-exporter"
)
OF_ENVIRONMENT = re.compile(r"holdfast_passwords\b|_password\b|_url\b|_api\b")
PARTS = ("pre_tasks", "tasks", "post_tasks", "handlers")  # of a play
PUBLIC = re.compile(r"node-web\.yml|/etc/systemd/|apt/keyrings")


def tasks(items: list[dict[str, Any]] | None) -> Iterator[dict[str, Any]]:
    """Yield tasks and those of their blocks."""
    for item in items or ():
        yield item
        for part in ("block", "rescue", "always"):
            yield from tasks(item.get(part))


def writes() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every task that writes a file: where it stands, what it writes, the task."""
    for path in sorted((ROOT / "ansible").glob("**/tasks/*.yml")):
        for task in tasks(yaml.safe_load(path.read_text())):
            for key, value in task.items():
                if key.rpartition(".")[2] in WRITES:
                    yield f"{path.parent.parent.name}/{path.name}: {task['name']}", str(value.get("dest", "")), task


def test_what_holds_a_secret_shows_no_difference() -> None:
    found = [(name, task) for name, dest, task in writes() if SECRET.search(dest) and not PUBLIC.search(dest)]
    assert len(found) > 20, "the pattern finds the tasks that it is meant for"
    assert [name for name, task in found if not task.get("no_log") and task.get("diff") is not False] == []


OWNERS = ("localhost", "localhost.client", "drill")


@pytest.mark.slow
@pytest.mark.parametrize("tasks_from", ["main", "client"])
def test_a_given_key_is_not_printed(tmp_path: Path, tasks_from: str) -> None:
    """The documented rehearsal, with its differences."""
    (tmp_path / "given").mkdir()
    for name in ("ca.pem", *(f"{name}.{end}" for name in OWNERS for end in ("pem", "key"))):
        (tmp_path / "given" / name).write_text(f"content of {name}\n")
    (tmp_path / "there").mkdir()
    for name in ("server.pem", "client.pem"):  # of before: check mode leaves out a bare host
        (tmp_path / "there" / name).write_text("another one\n")
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([
            {
                "hosts": "localhost",
                "gather_facts": False,
                "vars": {
                    "tls_source": "given", "tls_controller_dir": str(tmp_path / "given"), "tls_group": "root",
                    "tls_dir": str(tmp_path / "there"), "tls_client_dir": str(tmp_path / "there"),
                    "tls_client_name": "drill", "holdfast_passwords": {"certificate_authority": "x"},
                },
                "tasks": [{"ansible.builtin.include_role": {"name": "holdfast.stack.tls", "tasks_from": tasks_from}}],
            }
        ])
    )  # fmt: skip
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", tmp_path / "play.yml", "--check", "--diff", "-v"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "content of ca.pem" in done.stdout, "differences are shown"
    assert [name for name in OWNERS if f"content of {name}.key" in done.stdout] == []


@pytest.mark.parametrize(
    ("variable", "secret"),
    [
        ("{{ {'PIP_INDEX_URL': app_index_url} }}", True),
        ("{{ app_judge_api }}", True),
        ("{{ holdfast_passwords.app }}", True),
        ("{{ rabbitmq_apt_environment }}", False),
    ],
)
def test_what_would_be_a_secret_in_the_environment_of_a_task(variable: str, secret: bool) -> None:
    assert bool(OF_ENVIRONMENT.search(variable)) is secret


def test_no_task_has_a_secret_in_its_environment() -> None:
    """Ansible writes it into the command line of the remote shell, which `ps` and the log of sudo show."""
    seen = 0
    for folder in ("roles/*/tasks/*.yml", "playbooks/**/*.yml"):
        for path in sorted((ROOT / "ansible").glob(folder)):
            for play in yaml.safe_load(path.read_text()) or ():
                for task in (play, *tasks([play]), *(one for part in PARTS for one in tasks(play.get(part)))):
                    given = str(task.get("environment", ""))
                    seen += bool(given)
                    assert not OF_ENVIRONMENT.search(given), f"{path}: {task.get('name')}"
    assert seen > 1, "there are tasks with an environment"

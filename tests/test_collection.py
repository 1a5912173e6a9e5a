"""The built collection works from a folder that has nothing but it: every playbook by its full name."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tomllib
from typing import TYPE_CHECKING

import pytest
import yaml

from .commands import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PLAYBOOKS = sorted(path.stem for path in (ROOT / "ansible/playbooks").glob("*.yml"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that scripts/collection makes."""
    to = tmp_path_factory.mktemp("archive")
    done = subprocess.run(
        [ROOT / "scripts/collection"], env=os.environ | {"OUT": str(to)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = to.iterdir()
    assert done.stdout.strip() == str(built)
    return built


def run(folder: Path, *command: str) -> str:
    """Run a command of Ansible in ``folder``, with no setting but where the collection is, and return what it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [ROOT / ".venv/bin" / command[0], *command[1:]],
        cwd=folder,
        env=environment | {"ANSIBLE_COLLECTIONS_PATH": str(folder), "ANSIBLE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed collection; those that it needs come with the package ``ansible``."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(folder, "ansible-galaxy", "collection", "install", "--no-deps", "-p", str(folder), str(archive))
    return folder


def test_its_version_is_that_of_the_library() -> None:
    library = tomllib.loads((ROOT / "holdfast/pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "ansible/galaxy.yml").read_text())["version"] == library


@pytest.mark.slow
def test_it_holds_nothing_that_only_a_controller_may_have() -> None:
    ignored = yaml.safe_load((ROOT / "ansible/galaxy.yml").read_text())["build_ignore"]
    lines = (ROOT / "ansible/inventories/example/.gitignore").read_text().splitlines()
    assert {line.rstrip("/") for line in lines if not line.startswith("#")} <= set(ignored)


@pytest.mark.slow
def test_it_holds_what_its_roles_copy_and_nothing_of_this_checkout(archive: Path) -> None:
    with tarfile.open(archive) as content:
        names = content.getnames()
    for part in ("monitoring/rules/brokers.yml", "monitoring/dashboards/overview.json", "monitoring/status/index.html",
                 "monitoring/runbooks/BrokerDown.md", "plugins/modules/audit.py", "roles/workers/files/roll.py",
                 "inventories/example/.gitignore"):  # fmt: skip
        assert part in names
    assert {name.split("/")[1] for name in names if name.startswith("inventories/")} == {"example"}
    assert [name for name in names if name.endswith(("ansible.cfg", "vault.yml", ".vault-password", ".key"))] == []


@pytest.mark.slow
def test_every_playbook_is_found_by_its_full_name(installed: Path) -> None:
    example = installed / "ansible_collections/holdfast/stack/inventories/example/hosts.yml"
    names = [f"holdfast.stack.{name}" for name in PLAYBOOKS]
    said = run(installed, "ansible-playbook", "--syntax-check", "-i", str(example), *names)
    assert said.count("playbook: ") == len(PLAYBOOKS)


@pytest.mark.slow
def test_site_lists_the_tasks_of_every_role_from_the_installed_collection(installed: Path) -> None:
    example = installed / "ansible_collections/holdfast/stack/inventories/example/hosts.yml"
    said = run(installed, "ansible-playbook", "--list-tasks", "-i", str(example), "holdfast.stack.site")
    for role in ("preflight", "common", "firewall", "tls", "rabbitmq", "redis", "sentinel", "app", "prometheus"):
        assert f"holdfast.stack.{role} : " in said, role


def test_the_check_and_render_run_from_the_installed_collection(installed: Path) -> None:
    """Plugins, filters and templates are found too: the files of the example are written."""
    example = installed / "ansible_collections/holdfast/stack/inventories/example/hosts.yml"
    out = installed / "out"
    run(installed, "ansible-playbook", "-i", str(example), "holdfast.stack.render", "-e", f"render_dir={out}")
    assert "listeners.ssl.default" in (out / "rabbitmq/rabbitmq.conf").read_text()
    assert "HOLDFAST_BROKER_URL=amqps://" in (out / "secret/app.env").read_text()
    secret = [out / "secret", *(out / "secret").rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in secret if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in secret if path.is_file()} == {"0o600"}


def test_every_playbook_that_a_program_of_ours_runs_is_there() -> None:
    sources = [*(ROOT / "drill/src").rglob("*.py"), ROOT / "tests/production/test_verbs.py", ROOT / "Makefile"]
    text = "\n".join(path.read_text() for path in sources)
    named = set(re.findall(r'(?:scripts/play(?:"\), "| )|lab\.(?:play|unchanged)\(")([a-z_]+(?:/[a-z_]+)?)', text))
    assert {"parts/describe", "site", "deploy"} <= named
    assert [name for name in named if not (ROOT / f"ansible/playbooks/{name}.yml").exists()] == []

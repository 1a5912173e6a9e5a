"""The old secrets become invalid only when every host of the inventory was given the new ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
HOSTS = ["node1", "node2", "node3", "work1", "work2", "ops"]
SERVERS = "Refuse while a server is missing"  # the play that asks the servers
NOBODY = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_timeout": 5}
HERE = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}


class Rotation:
    """A copy of the example with a vault, whose hosts do not answer.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(shutil.copytree(ROOT / "ansible/inventories/example", folder / "inventory"))
        (self.folder / "group_vars/all/nobody.yml").write_text(yaml.safe_dump(NOBODY))
        (self.folder / "host_vars").mkdir()
        (self.folder / ".vault-password").write_text("x")
        (self.folder / ".vault-password").chmod(0o600)

    def vault(self, **more: Any) -> None:
        """Write a rotation that has begun into the vault."""
        main = yaml.safe_load((self.folder / "group_vars/all/main.yml").read_text())
        passwords = {"holdfast_passwords": dict.fromkeys(main["holdfast_passwords"], "new")}
        text = yaml.safe_dump(passwords | {"holdfast_passwords_before": {"redis_app": "old"}} | more)
        (self.folder / "group_vars/all/vault.yml").write_text(text)
        assert self.run("ansible-vault", "encrypt", self.folder / "group_vars/all/vault.yml").returncode == 0

    def noted(self) -> dict[str, Any]:
        """Return what the vault holds."""
        said = self.run("ansible-vault", "view", self.folder / "group_vars/all/vault.yml")
        found: dict[str, Any] = yaml.safe_load(said.stdout)
        return found

    def run(self, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of Ansible's with the vault's password."""
        environment = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.folder / ".vault-password"),
            "PATH": f"{ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}",
        }
        return subprocess.run(
            [ROOT / ".venv/bin" / command, *arguments],
            env=os.environ | environment, check=False, capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    def finish(self, *options: str) -> str:
        """End the rotation; return what was said, in one line."""
        playbook = ROOT / "ansible/playbooks/rotate_secrets.yml"
        done = self.run("ansible-playbook", "-i", self.folder, playbook, "-e", "rotate_finish=yes", *options)
        assert done.returncode != 0, "no server answers"
        return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def rotation(tmp_path: Path) -> Rotation:
    """A rotation of hosts that do not answer."""
    return Rotation(tmp_path)


def test_it_ends_when_every_host_was_given_the_new_ones(rotation: Rotation) -> None:
    """The control of the others: it goes on to the servers."""
    rotation.vault(holdfast_passwords_given=HOSTS)
    said = rotation.finish()
    assert SERVERS in said
    assert "UNREACHABLE" in said


@pytest.mark.parametrize(("given", "named"), [(HOSTS[:4], "ops, work2"), (None, ", ".join(sorted(HOSTS)))])
def test_it_does_not_end_while_a_host_may_need_the_old_ones(
    rotation: Rotation, given: list[str] | None, named: str
) -> None:
    """Without a note: of a rotation that an earlier version has begun."""
    rotation.vault(**({} if given is None else {"holdfast_passwords_given": given}))
    said = rotation.finish()
    assert f"no run that came to its end has given the new secrets to {named} allowed:" in said
    assert "next: run this without rotate_finish" in said
    assert SERVERS not in said
    assert "holdfast_passwords_before" in rotation.noted()


def test_it_does_not_end_for_a_part_of_the_hosts(rotation: Rotation) -> None:
    """Not even for one without the first host, which plays of the controller are for."""
    rotation.vault(holdfast_passwords_given=HOSTS)
    said = rotation.finish("--limit", "node2,node3")
    assert "next: run this again without --limit" in said
    assert SERVERS not in said


def test_it_does_not_begin_for_a_part_of_the_hosts(rotation: Rotation) -> None:
    """Their clients would log in with passwords that no server knows."""
    rotation.vault(holdfast_passwords_before={})
    before = rotation.noted()
    playbook = ROOT / "ansible/playbooks/rotate_secrets.yml"
    done = rotation.run("ansible-playbook", "-i", rotation.folder, playbook, "--limit", "work1")
    assert "without --limit" in done.stdout, done.stdout + done.stderr
    assert done.returncode
    assert rotation.noted() == before


def test_a_host_that_the_run_has_lost_is_not_noted(rotation: Rotation) -> None:
    """What the first run does at its end, after it has lost a host on its way."""
    rotation.vault(holdfast_passwords_given=[])
    plays = yaml.safe_load((ROOT / "ansible/playbooks/rotate_secrets.yml").read_text())
    names = [play["name"] for play in plays]
    at = names.index("Note which hosts use the new secrets")
    assert plays[at + 1]["ansible.builtin.import_playbook"] == "parts/reached.yml"
    for name in HOSTS[1:]:
        (rotation.folder / f"host_vars/{name}.yml").write_text(yaml.safe_dump(HERE))
    lose: dict[str, Any] = {"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.ping": {}}]}
    play = rotation.folder.parent / "play.yml"
    play.write_text(yaml.safe_dump([lose, plays[at]]))
    done = rotation.run("ansible-playbook", "-i", rotation.folder, play)
    assert "UNREACHABLE" in done.stdout, done.stdout + done.stderr
    assert sorted(rotation.noted()["holdfast_passwords_given"]) == sorted(HOSTS[1:])

    # the same run again, when the host is there
    play.write_text(yaml.safe_dump([plays[at]]))
    assert rotation.run("ansible-playbook", "-i", rotation.folder, play).returncode == 0
    assert sorted(rotation.noted()["holdfast_passwords_given"]) == sorted(HOSTS)
    again = rotation.run("ansible-playbook", "-i", rotation.folder, play)
    assert "changed=0" in again.stdout


def test_a_new_rotation_has_been_given_to_nobody(rotation: Rotation) -> None:
    """Whatever stands there of one that was ended by hand."""
    rotation.vault(holdfast_passwords_given=HOSTS, holdfast_passwords_before={})
    rotation.run("ansible-playbook", "-i", rotation.folder, ROOT / "ansible/playbooks/rotate_secrets.yml")
    noted = rotation.noted()
    assert noted["holdfast_passwords_before"]["redis_app"] == "new"
    assert noted["holdfast_passwords"]["redis_app"] != "new"
    assert noted["holdfast_passwords_given"] == []

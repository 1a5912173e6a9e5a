"""The playbook `secrets` on an inventory that was made before this version: what it lacks is added, the rest stays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "ansible/inventories/example"
SINCE = {"rabbitmq_worker", "rabbitmq_operator", "redis_worker", "redis_beat", "prometheus"}  # names of later versions


def ansible(folder: Path, *command: str) -> str:
    """Run a command of Ansible in the checkout's own environment, with the vault of an inventory."""
    done = subprocess.run(
        [ROOT / ".venv/bin" / command[0], *command[1:]],
        env=os.environ
        | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(folder / ".vault-password"),
            "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
        },
        check=False, capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def vault(folder: Path) -> dict[str, Any]:
    """Return what the vault holds."""
    found: dict[str, Any] = yaml.safe_load(
        ansible(folder, "ansible-vault", "view", str(folder / "group_vars/all/vault.yml"))
    )
    return found


def test_an_inventory_of_an_earlier_version_gets_the_names_that_it_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    (folder / "group_vars/all").mkdir(parents=True)
    (folder / "hosts.yml").write_text((EXAMPLE / "hosts.yml").read_text())
    main = yaml.safe_load((EXAMPLE / "group_vars/all/main.yml").read_text())
    every = main["holdfast_passwords"]
    earlier = {name: value for name, value in every.items() if name not in SINCE | {"database"}}
    assert len(earlier) == len(every) - len(SINCE) - 1
    (folder / "group_vars/all/main.yml").write_text(yaml.safe_dump(main | {"holdfast_passwords": earlier}))
    (folder / ".vault-password").write_text("of a test\n")
    kept = {"holdfast_passwords": dict.fromkeys(earlier, "kept"), "holdfast_app_user": "app2"}
    (folder / "group_vars/all/vault.yml").write_text(yaml.safe_dump(kept))
    ansible(folder, "ansible-vault", "encrypt", str(folder / "group_vars/all/vault.yml"))

    said = ansible(folder, "ansible-playbook", "ansible/playbooks/secrets.yml", "-i", str(folder))

    found = vault(folder)
    assert found["holdfast_app_user"] == "app2"
    assert {name for name, value in found["holdfast_passwords"].items() if value == "kept"} == earlier.keys()
    made = {name: value for name, value in found["holdfast_passwords"].items() if value != "kept"}
    assert made.keys() == SINCE, "and none for a database that is not there"
    assert all(len(value) == 48 for value in made.values())
    assert ", ".join(sorted(SINCE)) in said
    again = ansible(folder, "ansible-playbook", "ansible/playbooks/secrets.yml", "-i", str(folder))
    assert "changed=0" in again.split("PLAY RECAP")[1]
    assert vault(folder) == found

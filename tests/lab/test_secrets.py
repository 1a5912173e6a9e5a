"""What Ansible prints holds no secret, however loud it is asked to be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .lab import INVENTORY, ROOT

pytestmark = pytest.mark.lab

LOUD = ("--check", "--diff", "-vvv")


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    """Every password of the vault, and a line of every private key of the controller, by name."""
    vault, password = INVENTORY / "group_vars/all/vault.yml", INVENTORY / ".vault-password"
    program = str(Path(sys.executable).with_name("ansible-vault"))
    view = [program, "view", "--vault-password-file", str(password), str(vault)]
    text = subprocess.run(view, capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = dict(yaml.safe_load(text)["holdfast_passwords"])
    for path in sorted((INVENTORY / "tls").rglob("*.key")):
        found[path.name] = path.read_text(encoding="utf-8").splitlines()[1]
    return found


def told(text: str, secrets: dict[str, str]) -> list[str]:
    """Return the names of the secrets in a text."""
    return [name for name, value in secrets.items() if value in text]


def test_a_secret_is_found_where_it_is(secrets: dict[str, str]) -> None:
    """The control of the test below: the names are those of the inventory, and each value would be seen."""
    assert len(secrets) > 20
    assert min(len(value) for value in secrets.values()) >= 16
    assert told("\n".join(f'"x": "{value}",' for value in secrets.values()), secrets) == list(secrets)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("playbook", ["site", "verify"])
def test_no_playbook_tells_a_secret(playbook: str, secrets: dict[str, str]) -> None:
    done = subprocess.run(
        [ROOT / "scripts/play", playbook, *LOUD],
        env=os.environ | {"INVENTORY": str(INVENTORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "EXEC" in said, "it was not loud"
    assert told(said, secrets) == []

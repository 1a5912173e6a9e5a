"""A publisher outside of the inventory: its logins have the rights of a publisher, and its files nothing else.

The playbook runs without any server, so that it ends where it judges that. What it would do next on the controller runs
by itself, and the servers' files are rendered. On live servers: test_outside of tests/production/test_verbs.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
WEB = {"name": "web", "addresses": ["203.0.113.0/24", "198.51.100.7"]}
UNREACHED = "found: node1, node2, node3 not reached"
CONTROL = {"rabbitmq_remote_control": ["app"]}


class Inventory:
    """A copy of the example with a vault.

    Args:
        folder: where it is made.
        clients: its ``holdfast_clients``.
    """

    def __init__(self, folder: Path, *clients: dict[str, Any]) -> None:
        self.folder = Path(shutil.copytree(ROOT / "ansible/inventories/example", folder))
        self.lists(*clients)
        assert self.run("scripts/play", "secrets").returncode == 0

    def lists(self, *clients: dict[str, Any]) -> None:
        """Write other clients into the inventory."""
        (self.folder / "group_vars/all/other.yml").write_text(
            yaml.safe_dump(CONTROL | {"holdfast_clients": [*clients]})
        )

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the checkout on this inventory."""
        environment = {
            "INVENTORY": str(self.folder), "OUT": str(self.folder.parent / "out"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.folder / ".vault-password"),
        }  # fmt: skip
        if not Path(environment["ANSIBLE_VAULT_PASSWORD_FILE"]).exists():
            del environment["ANSIBLE_VAULT_PASSWORD_FILE"]
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, check=False, capture_output=True, text=True, timeout=300
        )

    def issue(self, *options: str) -> str:
        """Run the verb for a host that is no server of the three; return what it said, in one line."""
        words = [word for one in options for word in ("--extra-vars", one)]
        done = self.run("scripts/play", "issue_client", "--limit", "ops", *words)
        assert done.returncode != 0
        return " ".join((done.stdout + done.stderr).split())

    def vault(self) -> dict[str, Any]:
        """Return what the vault holds."""
        file = self.folder / "group_vars/all/vault.yml"
        said = self.run(ROOT / ".venv/bin/ansible-vault", "view", file)
        found: dict[str, Any] = yaml.safe_load(said.stdout)
        return found

    def passwords(self) -> dict[str, str]:
        """Return the clients' passwords."""
        found: dict[str, str] = self.vault().get("holdfast_client_passwords", {})
        return found


PLAY = """
- hosts: node1
  gather_facts: false
  vars:
    tls_controller_dir: "{{ inventory_dir }}/tls"
    client_name: web
    client_dir: "{{ inventory_dir }}/.clients/web"
    client_home: /run/secrets/holdfast
    firewall_operators: []
    ansible_connection: local
    ansible_become: false
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - ansible.builtin.include_role: { name: holdfast.stack.tls, tasks_from: authority }
    - ansible.builtin.include_role: { name: holdfast.stack.app, tasks_from: client }
    - ansible.builtin.include_role: { name: holdfast.stack.shared, public: true }
    - ansible.builtin.template:
        src: ROOT/ansible/roles/firewall/templates/firewall.nft.j2
        dest: "{{ inventory_dir }}/../out/firewall.nft"
        mode: "0600"
"""


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    """An inventory with the client ``web``, its files, and those of the servers in ``out`` beside it."""
    inventory = Inventory(tmp_path_factory.mktemp("issued") / "inventory", WEB)
    assert UNREACHED in inventory.issue("client_name=web")
    assert not (inventory.folder / ".clients").exists(), "no files for logins that no server knows"
    assert inventory.run("scripts/render").returncode == 0
    play = inventory.folder.parent / "play.yml"
    play.write_text(PLAY.replace("ROOT", str(ROOT)))
    done = inventory.run(ROOT / ".venv/bin/ansible-playbook", "--inventory", inventory.folder, play)
    assert done.returncode == 0, done.stdout + done.stderr
    return inventory


def out(inventory: Inventory, name: str) -> str:
    """Return a file of the servers."""
    return (inventory.folder.parent / "out" / name).read_text()


def test_a_client_has_the_rights_of_a_publisher_and_a_password_of_its_own(issued: Inventory) -> None:
    definitions = json.loads(out(issued, "secret/rabbitmq/definitions/20-users.json"))
    rights = {entry["user"]: {**entry, "user": ""} for entry in definitions["permissions"]}
    control = rights["app"]["configure"].replace("^", "").replace("$", "")
    assert "pidbox" in control, "this inventory gives remote control to `app`"
    assert rights["client-web"] == {
        "user": "", "vhost": "holdfast", "configure": "^$", "write": "^(tasks|celery_delayed_27)$", "read": "^$"
    }  # fmt: skip
    hashes = [user["password_hash"] for user in definitions["users"]]
    assert len(hashes) == len(set(hashes))
    for server in ("redis/users.acl", "sentinel/users.acl"):
        rules = dict(re.findall(r"^user (\S+) on (.+)$", out(issued, f"secret/{server}"), re.MULTILINE))
        (app, publisher), (client, same) = (rules[name].split(" ", 1) for name in ("app", "client-web"))
        assert publisher == same
        assert app != client


def test_a_client_reaches_the_ports_of_a_publisher(issued: Inventory) -> None:
    rules = out(issued, "firewall.nft")
    opened = [line.split()[2] for line in rules.splitlines() if WEB["addresses"][0] in line]
    assert sorted(opened) == ["26379", "5671", "6379"]
    assert all(address in line for address in WEB["addresses"] for line in rules.splitlines() if "203.0.113" in line)


def test_the_files_have_a_publishers_login_and_no_other_secret(issued: Inventory) -> None:
    folder = issued.folder / ".clients/web"
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
        ".gitignore": "0o644", "ca.pem": "0o644", "cert.pem": "0o644", "client.env": "0o600", "key.pem": "0o600"
    }  # fmt: skip
    text = (folder / "client.env").read_text()
    lines = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    password = issued.passwords()["web"]
    assert len(password) == 48
    assert lines["HOLDFAST_BROKER_URL"].startswith(f"amqps://client-web:{password}@192.0.2.11:5671/holdfast,")
    assert lines["HOLDFAST_RESULT_URL"].startswith(f"sentinel://client-web:{password}@192.0.2.11:26379/0,")
    assert lines["HOLDFAST_SENTINEL_USERNAME"] == "client-web"
    assert lines["HOLDFAST_TLS_KEY"] == "/run/secrets/holdfast/key.pem"
    assert "HOLDFAST_OUTBOX_URL" not in lines, "the application's own variables have passwords of their own"
    assert [name for name, secret in issued.vault()["holdfast_passwords"].items() if secret in text] == []


def test_the_certificate_is_for_a_client_and_ends(issued: Inventory) -> None:
    folder = issued.folder / ".clients/web"
    certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    [authority] = x509.load_pem_x509_certificates((folder / "ca.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert certificate.subject.rfc4514_string() == "CN=client-web"
    assert certificate.public_key() == load_pem_private_key((folder / "key.pem").read_bytes(), None).public_key()
    assert [*certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value] == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert timedelta(days=29) < certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=31)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    """An inventory whose vault has the logins of two clients; the list has one of them."""
    inventory = Inventory(tmp_path_factory.mktemp("two") / "inventory", WEB, WEB | {"name": "batch"})
    for name in ("web", "batch"):
        assert UNREACHED in inventory.issue(f"client_name={name}")
    inventory.lists(WEB)
    return inventory


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["client_name=wbe"], "client_name wbe, client_state present; holdfast_clients has web"),
        (["client_name=web", "client_state=absent"], "take it out of holdfast_clients"),
        (["client_name=bacth", "client_state=absent"], "next: correct client_name"),
        (["client_name=web", "client_state=gone"], "client_state gone"),
        (["client_state=absent"], "logins of the client batch"),
        (["client_name=..", "client_state=absent"], "client_name .."),
    ],
)
def test_what_is_not_meant_is_refused(two: Inventory, options: list[str], words: str) -> None:
    before, there = two.vault(), sorted(two.folder.rglob("*"))
    said = two.issue(*options)
    assert words in said
    assert UNREACHED not in said, "before any server is asked"
    assert two.vault() == before
    assert sorted(two.folder.rglob("*")) == there


def test_a_login_of_a_client_that_the_list_has_lost_stops_every_other_verb(two: Inventory) -> None:
    done = two.run("scripts/play", "check")
    assert done.returncode != 0
    assert "logins of the client batch, which holdfast_clients does not have" in done.stdout
    assert "issue_client -e client_name=batch -e client_state=absent" in done.stdout


def test_a_client_that_goes_is_forgotten_and_the_others_stay(two: Inventory) -> None:
    before = two.passwords()
    (two.folder / ".clients/batch").mkdir(parents=True)
    for _ in range(2):  # a run that servers interrupt is repeated
        said = two.issue("client_name=batch", "client_state=absent")
        assert UNREACHED in said
        assert "is still let in" in said
        assert two.passwords() == {"web": before["web"]}
    assert not (two.folder / ".clients/batch").exists()
    assert two.run("scripts/play", "check").returncode == 0
    two.lists(WEB, WEB | {"name": "batch"})
    two.issue("client_name=batch")
    assert two.passwords()["batch"] != before["batch"]

"""The hosts that ``scripts/lab`` made and ``site`` has set up: commands on them, and what verify finds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
LAB = os.environ.get("HOLDFAST_LAB", "holdfast-lab")  # as scripts/lab has it
INVENTORY = ROOT / os.environ.get("INVENTORY", "ansible/inventories/lab")


def described(inventory: Path = INVENTORY) -> dict[str, Any]:
    """Return what an inventory says of all hosts: ``hosts`` and ``children``."""
    everything: dict[str, Any] = yaml.safe_load((inventory / "hosts.yml").read_text(encoding="utf-8"))["all"]
    return everything


def container(host: str) -> str:
    """Return the name of the container that is this host."""
    return f"{LAB}-{host}"


def hosts(group: str) -> list[str]:
    """Return the hosts of a group of the inventory, in its order; those of ``all`` are every host."""
    everything = described()
    if group == "all":
        return list(everything["hosts"])
    found = everything["children"][group]
    return [*found.get("hosts", {}), *(name for child in found.get("children", {}) for name in hosts(child))]


def on(host: str, script: str) -> str:
    """Run a shell script as root on a host and return what it prints.

    Raises:
        AssertionError: a command of it failed.
    """
    done = subprocess.run(
        ["docker", "exec", container(host), "sh", "-ec", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{host}: {script}\n{done.stdout}{done.stderr}"
    return done.stdout


TRY = """
import contextlib, socket, ssl
context = ssl.create_default_context(cafile="{trusted}")
context.load_cert_chain("{shown}.pem", "{shown}.key")
try:
    with socket.create_connection(("127.0.0.1", {port}), 5) as link:
        with context.wrap_socket(link, server_hostname="localhost") as tls:
            tls.settimeout(1)  # with TLS 1.3 a server refuses after the handshake, in what it sends next
            with contextlib.suppress(TimeoutError):
                tls.recv(1)
    print("accepted")
except (ssl.SSLError, ConnectionError) as error:
    print("refused:", error)
"""
TLS = "/etc/holdfast/tls"


def client(shown: str, port: int, trusted: str = f"{TLS}/ca.pem") -> str:
    """Return a program that shows a certificate to a port of its host, and prints whether both sides accept.

    Args:
        shown: path of the certificate, without ``.pem``.
        port: of the server.
        trusted: file with the authorities that the client trusts.
    """
    return TRY.format(shown=shown, port=port, trusted=trusted)


def accepts(host: str, *arguments: Any) -> bool:
    """Tell whether a port of a host and a client accept each other, see ``client``."""
    said = on(host, f"python3 - <<'END'\n{client(*arguments)}\nEND").strip()
    assert said.partition(":")[0] in {"accepted", "refused"}, said
    return said == "accepted"


def verify(limit: str = "all") -> set[str]:
    """Run the playbook on some of the hosts, and return its findings as ``HOST: CHECK``."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "verify.json"
        done = subprocess.run(
            [ROOT / "scripts/play", "verify", "--limit", limit, "--extra-vars", f"verify_report={report}"],
            env=os.environ | {"INVENTORY": str(INVENTORY)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert report.exists(), done.stdout + done.stderr
        said = json.loads(report.read_text())
    found = {
        f"{host}: {check['check']}" for host, checks in said["hosts"].items() for check in checks if not check["ok"]
    }
    assert said["ok"] == (not found) == (done.returncode == 0), done.stdout
    return found


def matching(found: set[str], pattern: str) -> set[str]:
    """Return the findings that a pattern describes from beginning to end."""
    return {finding for finding in found if re.fullmatch(pattern, finding)}

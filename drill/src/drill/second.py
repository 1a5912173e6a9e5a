"""A second set of servers for the drill's own test: the stack's compose file with a few lines changed.

No user of the stack may switch off its append-only file at run time, the drill edits no file of a running server, and
it never fills the disk of the machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from drill.target import TOOLS, Compose, TargetError

if TYPE_CHECKING:
    from drill.mutants import Second

PROJECT = "holdfast-drill"
NET = os.environ.get("HOLDFAST_DRILL_NET", "172.30.79")  # first three numbers, beside those of the stack
HOLDER = "holder"  # a container that keeps volumes in memory mounted while their server is down
_ADDRESSES = {"rabbit": "HOLDFAST_BROKER_URL", "redis": "HOLDFAST_RESULT_URL"}


class Servers:
    """Some tiers of the stack once more, in a network of their own.

    Args:
        compose: folder of the stack's compose file, with its secrets.
        folder: where the changed files go.
        net: first three numbers of the stack's network.
        second: what they are and what is changed.
    """

    def __init__(self, compose: Path, folder: Path, net: str, second: Second) -> None:
        self._compose, self._folder, self._net, self._second = compose, folder, net, second

    def __enter__(self) -> Self:
        description = self._description()
        path = self._folder / "compose.json"
        path.write_text(json.dumps(description))
        path.chmod(0o600)
        self._remove()
        try:
            self._run("up", "--detach", "--wait", "--wait-timeout", "180")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    @property
    def target(self) -> Compose:
        """The set, as something that the drill may break."""
        return Compose(PROJECT)

    def use(self, environment: dict[str, str]) -> None:
        """Point an application's environment at these servers."""
        for tier, name in _ADDRESSES.items():
            if tier in self._second.tiers:
                environment[name] = self._moved(environment[name])

    def write_files(self, files: dict[str, str]) -> dict[str, dict[str, str]]:
        """Write the changed copies.

        Args:
            files: name -> path of the stack's file.

        Returns:
            The same names as Compose's ``configs``.

        Raises:
            TargetError: an edit matches nowhere.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        found = {}
        unused = set(self._second.edits)
        for name, source in files.items():
            text = Path(source).read_text(encoding="utf-8")
            if name.endswith(".conf"):
                text = self._moved(text)
                for edit in self._second.edits:
                    text, hits = re.subn(*edit, text, flags=re.MULTILINE)
                    unused -= {edit} if hits else set()
            copy = self._folder / name
            copy.write_text(text, encoding="utf-8")
            copy.chmod(Path(source).stat().st_mode & 0o777)
            found[name] = {"file": str(copy)}
        if unused:
            raise TargetError(f"{sorted(unused)} matches nothing in {self._compose}; the templates have changed.")
        return found

    def _description(self) -> dict[str, Any]:
        """Return the compose file of the set, made from that of the stack."""
        said = subprocess.run(
            ["docker", "compose", "--file", str(self._compose / "compose.yaml"), "config", "--format", "json"],
            env=os.environ | {"HOLDFAST_NET": NET},
            capture_output=True,
            text=True,
            check=True,
        )
        whole = json.loads(said.stdout)
        tiers = self._second.tiers
        services = {name: one for name, one in whole["services"].items() if name.rstrip("0123456789") in tiers}
        for one in services.values():
            one.pop("ports", None)  # those of the machine belong to the stack
        used = {entry["source"] for one in services.values() for entry in one["configs"]}
        secrets = {entry["source"] for one in services.values() for entry in one["secrets"]}
        volumes: dict[str, dict[str, Any]] = {name: {} for name in services}
        if self._second.disk:
            memory = {"type": "tmpfs", "device": "tmpfs", "o": f"size={self._second.disk}"}
            volumes = {name: {"driver_opts": memory} for name in services}
            services[HOLDER] = {
                "image": TOOLS,
                "pull_policy": "never",
                "command": ["sleep", "infinity"],
                "init": True,
                "network_mode": "none",
                "labels": {"holdfast.drill": "allowed"},
                "volumes": [f"{name}:/held/{name}" for name in volumes],
            }
        return {
            "name": PROJECT,
            "services": services,
            "networks": {"holdfast": whole["networks"]["holdfast"] | {"name": PROJECT}},
            "volumes": volumes,
            "configs": self.write_files({name: whole["configs"][name]["file"] for name in sorted(used)}),
            "secrets": {name: whole["secrets"][name] for name in sorted(secrets)},
        }

    def _remove(self) -> None:
        self._run("down", "--volumes", "--remove-orphans", "--timeout", "1")

    def _moved(self, text: str) -> str:
        return text.replace(f"{self._net}.", f"{NET}.")

    def _run(self, *arguments: str) -> None:
        command = ["docker", "compose", "--project-name", PROJECT, "--file", str(self._folder / "compose.json")]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise TargetError(f"docker compose {arguments[0]} of {PROJECT} failed: {done.stderr.strip()[-500:]}")

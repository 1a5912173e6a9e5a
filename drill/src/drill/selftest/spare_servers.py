"""Spare servers for the drill's own test: the stack's compose file with a few lines changed.

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

from drill import ROOT
from drill.targets import TargetError
from drill.targets.compose import PREPARES, TOOLS, Compose
from drill.targets.images import COMMIT, Images

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drill.selftest.mutants import Spare

PROJECT = "holdfast-drill"
NET = os.environ.get("HOLDFAST_DRILL_NET", "172.30.79")  # first three numbers, beside those of the stack
MADE = "/run/holdfast"  # where a container finds what was made for its role
HOLDER = "holder"  # a container that keeps volumes in memory mounted while their server is down
_ADDRESSES = {
    "rabbit": ("HOLDFAST_BROKER_URL",),
    "redis": ("HOLDFAST_RESULT_URL",),
    "postgres": ("WEBHOOKS_DATABASE_URL", "HOLDFAST_OUTBOX_URL"),
}
_WITH_DATA = {"rabbit", "redis", "postgres"}  # tiers that keep what was promised
_SHIM = "/usr/local/lib/no-fsync.so"
# needs no C library, so that it loads into a server of any distribution
_NO_FSYNC = "".join(f"int {call}(int file) {{ (void)file; return 0; }}\n" for call in ("fsync", "fdatasync", "syncfs"))


def images(folder: Path) -> Images:
    """Return the disks of the set whose files are in ``folder``."""
    return Images(folder / "images")


class SpareServers:
    """Some tiers of the stack once more, in a network of their own.

    Args:
        folder: where the changed files go.
        net: first three numbers of the stack's network.
        spare: what they are and what is changed.
        files: filled files of the stack's roles, as ``role/name``.
    """

    def __init__(self, folder: Path, net: str, spare: Spare, files: Mapping[str, str]) -> None:
        self._folder, self._net, self._spare, self._files = folder, net, spare, files
        self._images = images(folder)

    def __enter__(self) -> Self:
        if self._spare.images:
            self._images.check()
        description = self._description()
        self._write(description)
        self._remove()
        try:
            if self._spare.images:
                self._put_on_images(description)
            if self._spare.no_fsync:
                self._take_fsync(description)
            self._write(description)
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
        for tier in self._spare.tiers:
            for name in _ADDRESSES.get(tier, ()):
                environment[name] = self._moved(environment[name])

    def write_files(self, files: Mapping[str, str]) -> None:
        """Write the files of the set, changed.

        Args:
            files: name below the folder -> text of the stack's file.

        Raises:
            TargetError: an edit matches nowhere.
        """
        unused = set(self._spare.edits)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # they hold passwords
        for name, source in files.items():
            text = self._moved(source)
            for edit in self._spare.edits:
                text, hits = re.subn(*edit, text, flags=re.MULTILINE)
                unused -= {edit} if hits else set()
            copy = self._folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")
            copy.chmod(0o755 if text.startswith("#!") else 0o644)  # the servers read them as users of their own
        if unused:
            raise TargetError(f"{sorted(unused)} matches nothing in the files of {ROOT}; the templates have changed.")

    def _description(self) -> dict[str, Any]:
        """Return the compose file of the set, made from that of the stack."""
        said = subprocess.run(
            ["docker", "compose", "--file", str(ROOT / "compose.yaml"), "config", "--format", "json"],
            env=os.environ | {"HOLDFAST_NET": NET},
            capture_output=True,
            text=True,
            check=True,
        )
        whole = json.loads(said.stdout)
        tiers = self._spare.tiers
        services = {name: one for name, one in whole["services"].items() if name.rstrip("0123456789") in tiers}
        roles = set()
        for one in services.values():
            one.pop("ports", None)  # those of the machine belong to the stack
            one["depends_on"].pop(PREPARES)  # what it makes is in the folder
            for mount in one["volumes"]:
                if mount["target"] == MADE:
                    role = mount["source"].removeprefix("role-")
                    roles.add(role)
                    mount |= {"type": "bind", "source": str(self._folder / role)}
                    mount.pop("volume", None)
        used = {entry["source"] for one in services.values() for entry in one["configs"]}
        shared = {name: Path(whole["configs"][name]["file"]).read_text(encoding="utf-8") for name in used}
        made = {name: text for name, text in self._files.items() if name.partition("/")[0] in roles}
        self.write_files(made | shared)
        volumes: dict[str, dict[str, Any]] = {name: {} for name in services}
        if self._spare.disk:
            memory = {"type": "tmpfs", "device": "tmpfs", "o": f"size={self._spare.disk}"}
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
            "configs": {name: {"file": str(self._folder / name)} for name in sorted(used)},
        }

    def _put_on_images(self, description: dict[str, Any]) -> None:
        """Give each server that keeps data a disk of its own."""
        names = [name for name in description["services"] if name.rstrip("0123456789") in _WITH_DATA]
        for name, device in self._images.make(names, self._spare.images).items():
            options = {"type": "ext4", "device": device, "o": f"commit={COMMIT}"}
            description["volumes"][name] = {"driver_opts": options}

    def _take_fsync(self, description: dict[str, Any]) -> None:
        """Let ``fsync`` do nothing in the servers of some tiers.

        Raises:
            TargetError: there is no C compiler.
        """
        shim = self._folder / "no-fsync.so"
        command = ["cc", "-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-x", "c", "-", "-o", str(shim)]
        try:
            subprocess.run(command, input=_NO_FSYNC, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise TargetError(f"A server without fsync needs a C compiler: {error}. Next: apt install gcc") from error
        shim.chmod(0o755)
        for name, one in description["services"].items():
            if name.rstrip("0123456789") in self._spare.no_fsync:
                one["volumes"].append({"type": "bind", "source": str(shim), "target": _SHIM, "read_only": True})
                one["environment"] = (one.get("environment") or {}) | {"LD_PRELOAD": _SHIM}

    def _write(self, description: dict[str, Any]) -> None:
        path = self._folder / "compose.json"
        path.write_text(json.dumps(description))
        path.chmod(0o600)

    def _remove(self) -> None:
        try:
            self._run("down", "--volumes", "--remove-orphans", "--timeout", "1")
        finally:
            self._images.remove()

    def _moved(self, text: str) -> str:
        return text.replace(f"{self._net}.", f"{NET}.")

    def _run(self, *arguments: str) -> None:
        command = ["docker", "compose", "--project-name", PROJECT, "--file", str(self._folder / "compose.json")]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise TargetError(f"docker compose {arguments[0]} of {PROJECT} failed: {done.stderr.strip()[-500:]}")

"""The compose stack on this machine as a target: a node is a container."""

from __future__ import annotations

import json
import os
import subprocess
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from drill import ROOT
from drill.targets.base import Logins, Node, Process, TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drill.targets.base import Disks

MARKER = "holdfast.drill"
FREEZE = 10.0  # seconds; runc gives up on a container whose processes fork meanwhile
PREPARES = "init"  # the service that makes passwords and files, and ends
TOOLS = "holdfast-tools:dev"  # iptables and kill, beside a container: nothing is installed into the servers


class Compose:
    """The compose stack on this machine.

    Args:
        project: name of the compose project.
        scrape: folder in which its Prometheus looks for further targets.

    Raises:
        TargetError: it does not run, or a container of it lacks the marker.
    """

    disks: Disks | None = None  # its volumes are folders of this machine's own disk

    def __init__(self, project: str = "holdfast", scrape: Path | None = None) -> None:
        self.name = f"compose project {project}"
        self.project, self.scrape = project, scrape
        containers = self._containers()
        if not containers:
            raise TargetError(f"No container of the compose project {project!r} was found. Start it with: make up")
        bare = [name for name, found in containers.items() if found["Config"]["Labels"].get(MARKER) != "allowed"]
        if bare:
            raise TargetError(
                f"Refused: {', '.join(sorted(bare))} of project {project!r} lack the label {MARKER}=allowed. The drill "
                "breaks only what says that it may be broken. Next: is this the right project? If so, label it."
            )

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """All nodes by name."""
        return {
            name: Node(name, name.rstrip("0123456789"), _address(found), found["Id"], name)
            for name, found in sorted(self._containers().items())
        }

    def logins(self) -> Logins:
        """Ask the project's volumes.

        Raises:
            TargetError: it was never started.
        """
        command = [str(ROOT / "scripts/passwords"), "--json"]
        variables = os.environ | {"COMPOSE_PROJECT_NAME": self.project}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TargetError(f"The stack does not tell its passwords.\n{done.stderr.strip()[-1000:]}")
        made = json.loads(done.stdout)
        environments = made["environment"]
        return Logins(
            made["passwords"].__getitem__,
            environments["app"],
            environments["worker"],
            environments["operator"],
            environments["redis-broker"],
            made["files"],
        )

    def refresh(self) -> None:
        """Do nothing: addresses and passwords of the project never change."""

    def states(self) -> dict[str, str]:
        """Return the containers' states."""
        return {name: str(found["State"]["Status"]) for name, found in self._containers().items()}

    def birth(self, node: Node) -> str:
        """Return when the container was started last."""
        return str(self._inspect(node)["State"]["StartedAt"])

    def kill(self, nodes: Sequence[Node]) -> None:
        """Kill the containers; Docker does not restart what was killed through it."""
        _docker("kill", "--signal", "KILL", *(node.handle for node in nodes))

    def crash(self, nodes: Sequence[Node]) -> None:
        """Kill the main processes behind Docker's back, so that the restart policy acts."""
        _signal([int(self._inspect(node)["State"]["Pid"]) for node in nodes], "KILL")

    def start(self, node: Node) -> None:
        """Start the container."""
        _docker("start", node.handle)

    def stop(self, node: Node) -> None:
        """Stop the container."""
        _docker("stop", node.handle, timeout=120)

    def pause(self, node: Node) -> None:
        """Freeze the container; on a busy machine its runtime may give up a few times."""
        deadline = time.monotonic() + FREEZE
        while True:
            try:
                _docker("pause", node.handle)
            except TargetError as error:
                if "unable to freeze" not in str(error) or time.monotonic() > deadline:
                    raise
            else:
                return

    def resume(self, node: Node) -> None:
        """Thaw the container."""
        _docker("unpause", node.handle)

    def run(self, node: Node, *command: str, timeout: float = 60) -> str:
        """Run a command in the container."""
        return _docker("exec", node.handle, *command, timeout=timeout)

    def processes(self, node: Node) -> list[Process]:
        """Return the container's processes by their ids on the machine."""
        lines = _docker("top", node.handle, "-eo", "pid,ppid,args").splitlines()[1:]
        fields = [line.split(None, 2) for line in lines]
        return [Process(int(pid), int(parent), command) for pid, parent, command in fields]

    def signal(self, node: Node, pids: Sequence[int], name: str) -> None:
        """Signal processes of a container by their ids on the machine."""
        del node  # the ids are those of the whole machine
        _signal(pids, name)

    def network(self, node: Node, script: str) -> str:
        """Run a script beside the container, in its network, which a container that does not run has lost."""
        if self._inspect(node)["State"]["Status"] != "running":
            return ""
        beside = ("--network", f"container:{node.handle}", "--cap-add", "NET_ADMIN")
        return _docker("run", "--rm", *beside, TOOLS, "sh", "-ec", script)

    def open_ledger(self, folder: Path) -> None:
        """Let the workers' user write: they see the folder through a bind mount."""
        folder.chmod(0o1777)

    def fetch_ledger(self, folder: Path) -> None:
        """Do nothing: the workers write into the folder itself."""

    def _containers(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each service's container; one that only prepares the others is no node."""
        mine = ("--filter", f"label=com.docker.compose.project={self.project}")
        ids = _docker("ps", "--all", "--quiet", *mine, "--filter", "label=com.docker.compose.oneoff=False").split()
        found = {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in _inspected(ids)}
        found.pop(PREPARES, None)
        return found

    def _inspect(self, node: Node) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_docker("inspect", node.handle))[0]
        return found


def _inspected(ids: list[str]) -> list[dict[str, Any]]:
    """Return what Docker knows of containers."""
    found: list[dict[str, Any]] = json.loads(_docker("inspect", *ids)) if ids else []
    return found


def _address(container: dict[str, Any]) -> str:
    """Return the address that the compose file fixed, else the current one."""
    for network in container["NetworkSettings"]["Networks"].values():
        fixed = (network.get("IPAMConfig") or {}).get("IPv4Address")
        return str(fixed or network.get("IPAddress") or "")
    return ""


def _signal(pids: Sequence[int], name: str) -> None:
    """Signal processes of the machine that Docker runs on, which may be a virtual one."""
    script = f"kill -{name} {' '.join(map(str, pids))}"
    _docker("run", "--rm", "--pid", "host", "--network", "none", TOOLS, "sh", "-c", script)


def _docker(*arguments: str, timeout: float = 60) -> str:
    command = ["docker", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetError(f"{' '.join(command[:3])}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise TargetError(f"{' '.join(command)[:200]} ended with {done.returncode}: {said}")
    return done.stdout

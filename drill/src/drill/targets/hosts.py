"""The hosts of an Ansible inventory as a target: a node is a service of a host."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from drill import ROOT
from drill.targets.base import Logins, Node, Process, TargetError
from drill.targets.ssh import Connection
from holdfast import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from drill.targets.base import Disks

VARIABLE = "holdfast_drill"
MARKER = "/etc/holdfast/drill-allowed"
FREEZER = "/sys/fs/cgroup/system.slice"  # the kernel's: systemd never starts a unit again that died while it was frozen
LINE = "=="
DOWN = {"inactive", "failed", "deactivating"}
UP = {"active", "reloading", "refreshing"}
STOPPED = {"STOPPED", "EXITED", "FATAL"}
WEEK = 7  # days after which a run's ledger on a host is removed


@dataclass(frozen=True)
class Service:
    """What a group of the inventory runs on its hosts.

    Attributes:
        tier: of its nodes.
        unit: of systemd.
        program: of supervisor, where the unit is supervisor and the node one program of it.
        pattern: found in the command line of that program.
    """

    tier: str
    unit: str
    program: str = ""
    pattern: str = ""


SUPERVISOR = "supervisor.service"
SERVICES = {
    "rabbitmq": Service("rabbit", "rabbitmq-server.service"),
    "redis": Service("redis", "redis-server.service"),
    "sentinel": Service("sentinel", "redis-sentinel.service"),
    "workers": Service("worker", SUPERVISOR),
    "beat": Service("beat", SUPERVISOR, "beat", r"\bcelery .* beat( |$)"),
    "relay": Service("relay", SUPERVISOR, "relay", r"\bholdfast relay\b"),
    "flower": Service("flower", "holdfast-flower.service"),
    "prometheus": Service("prometheus", "prometheus.service"),
}


@dataclass(frozen=True)
class Look:
    """What a host says of itself at one moment.

    Attributes:
        units: state and main process of each unit.
        frozen: units whose processes are frozen.
        processes: all processes, each with its unit and whether it is stopped by a signal.
    """

    units: dict[str, tuple[str, int]]
    frozen: set[str]
    processes: list[tuple[Process, str, bool]]

    def process(self, service: Service) -> tuple[int, bool]:
        """Return the main process of a service and whether it is stopped; 0 while there is none."""
        main = self.units[service.unit][1]
        if not service.program:
            return main, False
        for process, _, stopped in self.processes:
            if main and process.parent == main and re.search(service.pattern, process.command):
                return process.pid, stopped
        return 0, False

    def state(self, service: Service) -> str:
        """Return the state of a service, empty for a program that has no process."""
        state, _ = self.units[service.unit]
        if state in DOWN:
            return "exited"
        if state not in UP:
            return "restarting"
        if service.unit in self.frozen:
            return "paused"
        process, stopped = self.process(service)
        if service.program and not process:
            return ""
        return "paused" if stopped else "running"


def look_script(units: Sequence[str]) -> str:
    """Return the shell script whose output :func:`read_look` takes."""
    events = " ".join(f"{FREEZER}/{unit}/cgroup.events" for unit in units)
    return (
        f"systemctl show --property Id,ActiveState,MainPID {' '.join(units)}; echo {LINE}\n"
        f"grep -ls '^frozen 1' {events} || true; echo {LINE}\n"
        "ps -ww -eo pid=,ppid=,stat=,cgroup:200=,args="
    )


def read_look(text: str) -> Look:
    """Read the output of :func:`look_script`."""
    shown, frozen, listing = text.split(f"{LINE}\n", 2)
    units = {}
    for block in shown.strip().split("\n\n"):
        found = dict(line.split("=", 1) for line in block.splitlines())
        units[found["Id"]] = found["ActiveState"], int(found["MainPID"])
    processes = []
    for line in listing.splitlines():
        pid, parent, stat, group, *command = line.split(None, 4)
        process = Process(int(pid), int(parent), " ".join(command))
        processes.append((process, group.rpartition("/")[2], stat.startswith("T")))
    return Look(units, {path.split("/")[-2] for path in frozen.split()}, processes)


def kill_script(units: Sequence[str]) -> str:
    """Return a script that kills units at once and keeps them down; what it changed for that is gone at its end."""
    folders = [f"/run/systemd/system/{unit}.d" for unit in units]
    files = " ".join(f"{folder}/zz-drill.conf" for folder in folders)
    return (
        f"trap 'rm -f {files}; rmdir --ignore-fail-on-non-empty {' '.join(folders)}; systemctl daemon-reload' EXIT\n"
        f"mkdir -p {' '.join(folders)}\n"
        f"for file in {files}; do printf '[Service]\\nRestart=no\\n' >$file; done\n"
        "systemctl daemon-reload\n"
        f"systemctl kill --signal KILL {' '.join(units)}\n"
        # not while one is being taken down: systemd decides after that whether to start it again
        f"while systemctl is-active {' '.join(units)} | grep -qvxE 'inactive|failed'; do sleep 0.1; done"
    )


def matches(tier: str, address: str) -> tuple[str, str]:
    """Return what iptables must match beside a peer's address, so that other services of the host go on.

    Brokers connect to each other, whoever was there first. Redis and Sentinel are connected to.

    Args:
        tier: of the node.
        address: of its host.

    Returns:
        Of packets to the node and from it.
    """
    ports = {"redis": 6379, "sentinel": 26379}
    if tier == "rabbit":
        return ("-p tcp -m multiport --ports 4369,25672",) * 2
    if tier in ports:
        return f"-d {address} -p tcp --dport {ports[tier]}", f"-s {address} -p tcp --sport {ports[tier]}"
    return "", ""


def describe(inventory: Path, state: Path) -> None:
    """Have Ansible write what it knows of an inventory's hosts.

    Args:
        inventory: its folder.
        state: folder to write to.

    Raises:
        TargetError: it cannot read the inventory.
    """
    command = [str(ROOT / "scripts/play"), "parts/describe", "--extra-vars", f"render_dir={state}"]
    variables = os.environ | {"INVENTORY": str(inventory)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:].strip()
        raise TargetError(
            f"Ansible cannot read {inventory}:\n{said}\nAllowed is an inventory that site.yml takes, with "
            f"its vault. Next: make play INVENTORY={inventory} PLAYBOOK=verify"
        )


class Hosts:
    """The services of an inventory's hosts, over SSH.

    Args:
        inventory: its folder.
        state: folder with what Ansible knows of the hosts, passwords included (:func:`describe`).

    Raises:
        TargetError: a host does not say that it may be broken, does not answer, or lacks what the drill needs.
    """

    disks: Disks | None = None  # the kernel of a host keeps its page cache whatever happens to a service
    scrape: Path | None = None  # a Prometheus on another host does not see the file that announces a drill

    def __init__(self, inventory: Path, state: Path) -> None:
        self._inventory, self._state = inventory, state
        found: dict[str, Any] = json.loads((state / "hosts.json").read_text())
        self.name = f"inventory {found['name']}"
        self._ledger, self._owner = str(found["ledger"]), str(found["owner"])
        self._results = str(found["redis_server"])  # with its name the units of Redis and Sentinel begin
        self._described: dict[str, dict[str, Any]] = found["hosts"]
        bare = sorted(name for name, host in self._described.items() if host["drill"] != "allowed")
        if bare:
            raise TargetError(
                f"Refused: {', '.join(bare)} of {self.name} lack the variable {VARIABLE}=allowed. The drill breaks "
                "only what says that it may be broken. Next: check the inventory; if correct, see docs/how-to/drill.md"
            )
        self._connections = {name: Connection(name, **host["ssh"]) for name, host in self._described.items()}
        self._check()

    def refresh(self) -> None:
        """Have Ansible write anew what it knows of the hosts."""
        describe(self._inventory, self._state)

    def logins(self) -> Logins:
        """Return what Ansible has written; passwords are read each time anew, for they may be rotated."""
        secret = self._state / "secret"
        return Logins(
            lambda name: (secret / "passwords" / name).read_text().strip(),
            environment.read_file(secret / "app.env"),
            operator=environment.read_file(secret / "login-operator.env"),
        )

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """All nodes by name: ``rabbit@data1``."""
        found = {}
        for host, described in self._described.items():
            for group in (group for group in SERVICES if group in described["groups"]):
                tier, address = SERVICES[group].tier, str(described["address"])
                name = f"{tier}@{host}"
                found[name] = Node(name, tier, address, host, host.partition(".")[0], *matches(tier, address))
        return dict(sorted(found.items()))

    def states(self) -> dict[str, str]:
        """Return the nodes' states; a host that gives no answer makes its nodes ``unreachable``."""
        looks = self._at_once(self._look, sorted({node.handle for node in self.nodes.values()}))
        found = {}
        for name, node in self.nodes.items():
            look = looks[node.handle]
            if isinstance(look, TargetError):
                found[name] = "unreachable"
            else:
                found[name] = look.state(self._service(node)) or self._supervised(node)
        return found

    def birth(self, node: Node) -> str:
        """Return the id of the main process."""
        return str(self._look(node.handle).process(self._service(node))[0])

    def kill(self, nodes: Sequence[Node]) -> None:
        """Kill units with all their processes, or programs; nobody starts them again."""
        for node in nodes:
            if program := self._service(node).program:
                self._kill_program(node, program)
        units = self._units([node for node in nodes if not self._service(node).program])
        self._all({host: kill_script(names) for host, names in units.items()})

    def crash(self, nodes: Sequence[Node]) -> None:
        """Kill units with all their processes, or programs; systemd and supervisor start them again."""
        scripts = {
            host: [f"systemctl kill --signal KILL {' '.join(names)}"]
            for host, names in self._units([node for node in nodes if not self._service(node).program]).items()
        }
        for node in nodes:
            if self._service(node).program:
                scripts.setdefault(node.handle, []).insert(0, f"kill -KILL {self._main(node)}")
        self._all({host: "\n".join(lines) for host, lines in scripts.items()})

    def start(self, node: Node) -> None:
        """Start the unit or the program; a unit that waits for others is not waited for."""
        service = self._service(node)
        if not service.program:
            self._run(node, f"systemctl reset-failed {service.unit} || true; systemctl start --no-block {service.unit}")
            return
        self._run(node, f"systemctl start {service.unit}; supervisorctl start {service.program} || true")

    def stop(self, node: Node) -> None:
        """Stop the unit or the program in order."""
        service = self._service(node)
        what = f"supervisorctl stop {service.program}" if service.program else f"systemctl stop {service.unit}"
        self._run(node, what, timeout=180)

    def pause(self, node: Node) -> None:
        """Freeze all processes of the unit, or stop the program by a signal."""
        self._set_frozen(node, frozen=True)

    def resume(self, node: Node) -> None:
        """End :meth:`pause`."""
        self._set_frozen(node, frozen=False)

    def run(self, node: Node, *command: str, timeout: float = 60) -> str:
        """Run a command on the node's host."""
        return self._run(node, shlex.join(command), timeout)

    def processes(self, node: Node) -> list[Process]:
        """Return the processes of the node's unit."""
        unit = self._service(node).unit
        return [process for process, found, _ in self._look(node.handle).processes if found == unit]

    def signal(self, node: Node, pids: Sequence[int], name: str) -> None:
        """Signal processes of the node's host."""
        self._run(node, f"kill -{name} {' '.join(map(str, pids))}")

    def network(self, node: Node, script: str) -> str:
        """Run a script on the node's host, whose network all its nodes share."""
        return self._run(node, script)

    def open_ledger(self, folder: Path) -> None:
        """Make the run's folder on the worker hosts, and remove those of long ago."""
        old = f"find {self._ledger} -mindepth 1 -maxdepth 1 -mtime +{WEEK} -exec rm -rf {{}} +"
        owned = f"install -d -o {self._owner} {self._ledger} {self._ledger}/{folder.name}"
        self._all(dict.fromkeys(self._ledger_hosts(), f"{owned}\n{old}"))

    def fetch_ledger(self, folder: Path) -> None:
        """Copy the run's folder from the worker hosts.

        A file's length is read before the file: what a worker writes meanwhile is then beyond it, not missing. What is
        only reserved for further records is packed to nothing.
        """
        script = (
            f"cd {self._ledger}/{folder.name}\n"
            # by their endings: head comes before ledger
            "tar -cz --no-recursion --warning=no-file-changed . $(ls -X) || [ $? = 1 ]"
        )
        for said in self._all(dict.fromkeys(self._ledger_hosts(), script), timeout=300).values():
            with tarfile.open(fileobj=io.BytesIO(said)) as archive:
                archive.extractall(folder, filter="data")

    def _check(self) -> None:
        """Refuse hosts without the marker or without what the drill needs."""
        script = f"test -e {MARKER} || echo {MARKER}; command -v iptables >/dev/null || echo iptables"
        answers = self._at_once(lambda host: self._connections[host].run(script), sorted(self._connections))
        found = [f"{host}: {answer}" for host, answer in answers.items() if isinstance(answer, TargetError)]
        lacks = {host: answer.decode().split() for host, answer in answers.items() if isinstance(answer, bytes)}
        found += [f"{host} lacks {' and '.join(names)}" for host, names in lacks.items() if names]
        if found:
            raise TargetError(
                f"Refused: {'; '.join(found)}. The drill breaks only hosts that have the file {MARKER}, which you "
                "make, and iptables, which the playbook site installs. Next: see docs/how-to/drill.md"
            )

    def _service(self, node: Node) -> Service:
        found = next(service for service in SERVICES.values() if service.tier == node.tier)
        return replace(found, unit=re.sub("^redis-", f"{self._results}-", found.unit))

    def _units(self, nodes: Sequence[Node]) -> dict[str, list[str]]:
        """Return the units of the nodes by host."""
        found: dict[str, list[str]] = {}
        for node in nodes:
            found.setdefault(node.handle, []).append(self._service(node).unit)
        return found

    def _look(self, host: str) -> Look:
        nodes = [node for node in self.nodes.values() if node.handle == host]
        units = sorted({self._service(node).unit for node in nodes})
        return read_look(self._connections[host].run(look_script(units)).decode())

    def _supervised(self, node: Node) -> str:
        """Return the state of a program without a process: supervisor knows whether it starts it again."""
        said = self._run(node, f"supervisorctl status {self._service(node).program} || true").split()
        return "exited" if len(said) > 1 and said[1] in STOPPED else "restarting"

    def _main(self, node: Node) -> int:
        """Return the main process of a node that must have one."""
        found, _ = self._look(node.handle).process(self._service(node))
        if not found:
            raise TargetError(f"{node.name} has no process at the moment.")
        return found

    def _kill_program(self, node: Node, program: str) -> None:
        """Kill a program that supervisor is just about to stop: so it does not start it again."""
        pid = self._main(node)
        self._run(
            node,
            f"kill -STOP {pid}\n"
            f"supervisorctl stop {program} &\n"
            f"until supervisorctl status {program} | grep -q STOPPING; do sleep 0.1; done\n"
            f"kill -KILL {pid}; wait",
        )

    def _set_frozen(self, node: Node, *, frozen: bool) -> None:
        service = self._service(node)
        if service.program:
            self.signal(node, [self._main(node)], "STOP" if frozen else "CONT")
            return
        group = f"{FREEZER}/{service.unit}"
        self._run(
            node,
            f"echo {frozen:d} >{group}/cgroup.freeze\n"
            f"for try in $(seq 50); do grep -q '^frozen {frozen:d}' {group}/cgroup.events && exit; sleep 0.1; done\n"
            "echo the kernel does not say that it did >&2; exit 1",
        )

    def _ledger_hosts(self) -> list[str]:
        return sorted({node.handle for node in self.nodes.values() if node.tier == "worker"})

    def _run(self, node: Node, script: str, timeout: float = 60) -> str:
        return self._connections[node.handle].run(script, timeout).decode()

    def _all(self, scripts: dict[str, str], timeout: float = 60) -> dict[str, bytes]:
        """Run a script on each host at the same time; return the outputs, or raise what one of them failed with."""
        answers = self._at_once(lambda host: self._connections[host].run(scripts[host], timeout), [*scripts])
        found: dict[str, bytes] = {}
        for host, answer in answers.items():
            if isinstance(answer, TargetError):
                raise answer
            found[host] = answer
        return found

    @staticmethod
    def _at_once[T](action: Callable[[str], T], hosts: list[str]) -> dict[str, T | TargetError]:
        """Do something with all hosts at the same time; return the answers, or how it failed."""

        def attempt(host: str) -> T | TargetError:
            try:
                return action(host)
            except TargetError as error:
                return error

        with ThreadPoolExecutor(max(1, len(hosts))) as pool:
            return dict(zip(hosts, pool.map(attempt, hosts), strict=True))

"""What the drill needs of the place where a stack runs, as one protocol.

:mod:`drill.targets.compose` and :mod:`drill.targets.hosts` implement it. Another place, such as a cluster of your own,
needs one class that does: ``drill run --target package.module:name`` calls that name without an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


class TargetError(Exception):
    """The target refuses, or a command on it failed; the message says what was found, and what to do."""


@dataclass(frozen=True)
class Node:
    """A container, or a service of a host.

    Attributes:
        name: ``rabbit1`` of the compose file, ``rabbit@data1`` of an inventory.
        tier: what it is: ``rabbit``, ``redis``, ``sentinel``, ``worker``, ``beat`` and so on.
        address: IP address inside the stack's network; empty for a node that nothing connects to.
        handle: what the target calls it by.
        host: name of its machine, which RabbitMQ puts behind the ``@``.
        inward: iptables match of what peers send it, beside their address; empty where its address is its own.
        outward: the same for what it sends them.
    """

    name: str
    tier: str
    address: str
    handle: str
    host: str
    inward: str = ""
    outward: str = ""


@dataclass(frozen=True)
class Process:
    """A process as the machine sees it."""

    pid: int
    parent: int
    command: str


@dataclass(frozen=True)
class Logins:
    """The logins of one target.

    Attributes:
        password: returns a password by its name.
        environment: of the application.
        worker: of a worker; empty if the target does not say.
        operator: of a person who handles dead letters; empty if the target does not say.
        redis_broker: what differs where Redis carries the tasks; empty if the target does not say.
        files: filled files of the roles, as ``role/name``; empty if the target does not say.
    """

    password: Callable[[str], str]
    environment: Mapping[str, str]
    worker: Mapping[str, str] = field(default_factory=dict)
    operator: Mapping[str, str] = field(default_factory=dict)
    redis_broker: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Disks(Protocol):
    """Disks that can lose power. Each call raises :class:`TargetError` when it fails."""

    def names(self) -> list[str]:
        """Return the nodes whose disks can lose power."""

    def mark(self, names: Sequence[str]) -> None:
        """Write a control file with ``fsync`` and one without to the disk of each node."""

    def keep(self, names: Sequence[str]) -> None:
        """Note what the disks of nodes hold; the nodes are frozen."""

    def lose(self, names: Sequence[str]) -> str:
        """Take from the disks what they did not hold at :meth:`keep`; the nodes are down.

        Returns:
            That the control files prove it, in words; empty when they do not.
        """


class Target(Protocol):
    """What the drill needs of the place where a stack runs. Each call raises :class:`TargetError` when it fails.

    Who makes one looks first whether everything there says that it may be broken, and raises :class:`TargetError` when
    something does not.

    Attributes:
        name: for people: what will be broken.
        scrape: folder of this machine in which the target's Prometheus looks for further targets (``file_sd``); None
            where it does not see one.
        disks: that can lose power; None where none can.
    """

    name: str
    scrape: Path | None
    disks: Disks | None

    @property
    def nodes(self) -> dict[str, Node]:
        """All nodes by name."""

    def logins(self) -> Logins:
        """Return the passwords of the servers and the environment of the application."""

    def refresh(self) -> None:
        """Read again what an operator's command may have changed, such as passwords."""

    def states(self) -> dict[str, str]:
        """Return ``running``, ``paused``, ``restarting``, ``exited`` or ``unreachable`` for each node, by name."""

    def birth(self, node: Node) -> str:
        """Return what changes when the node's main process is another one."""

    def kill(self, nodes: Sequence[Node]) -> None:
        """End the main processes at once, without a chance to clean up; they stay down until :meth:`start`."""

    def crash(self, nodes: Sequence[Node]) -> None:
        """The same, but supervision may start them again."""

    def start(self, node: Node) -> None:
        """Start a node that is down."""

    def stop(self, node: Node) -> None:
        """Stop a node in order, within its grace period; it stays down until :meth:`start`."""

    def pause(self, node: Node) -> None:
        """Freeze all processes of a node; its kernel still answers TCP."""

    def resume(self, node: Node) -> None:
        """End :meth:`pause`."""

    def run(self, node: Node, *command: str, timeout: float = 60) -> str:
        """Run a command on a node and return its output."""

    def processes(self, node: Node) -> list[Process]:
        """Return the processes of a node."""

    def signal(self, node: Node, pids: Sequence[int], name: str) -> None:
        """Send a signal to processes that :meth:`processes` returned for a node."""

    def network(self, node: Node, script: str) -> str:
        """Run a shell script with ``iptables`` in the network of a node and return its output.

        A network that has gone with its node has no rules: then nothing is done.
        """

    def open_ledger(self, folder: Path) -> None:
        """Let the workers write to the folder of a run, which is on this machine."""

    def fetch_ledger(self, folder: Path) -> None:
        """Bring what the workers have written so far into the folder of a run."""

"""A broker at its limit of open files: what it serves goes on, and it takes nothing new.

There is no such fault for Redis: it counts its clients itself (``maxclients``) and refuses one in words before that.
"""

from __future__ import annotations

import shlex
import socket
from typing import TYPE_CHECKING

from drill.faults.base import SLACK, Plan, fault
from drill.faults.broker import seen_to_go, serving
from drill.faults.record import Bound
from drill.targets import TargetError

if TYPE_CHECKING:
    import random

    from drill.targets import Node
    from drill.targets.stack import Stack

SECONDS = 15.0
PATIENCE = 2.0  # seconds that a new connection waits for its first byte; a server with a free descriptor needs none
HELLO = b"AMQP\x00\x00\x09\x01"  # a port with TLS complains about it, which is an answer, too


def owner(pid: int, script: str) -> str:
    """Return a shell command that runs a script as the owner of a process.

    Whoever owns a process may lower its soft limits and raise them again; root without its capabilities may not.

    Args:
        pid: of the process, where the command runs.
        script: to run.
    """
    who = f'--reuid "$(stat -c %u /proc/{pid})" --regid "$(stat -c %g /proc/{pid})" --keep-groups'
    return f"setpriv {who} sh -ec {shlex.quote(script)}"


def _answers(node: Node, port: int) -> bool:
    """Whether a server says anything to a new connection."""
    try:
        with socket.create_connection((node.address, port), PATIENCE) as client:
            client.sendall(HELLO)
            client.recv(1)
    except OSError:
        return False
    return True


def _connections(stack: Stack, node: Node) -> set[str]:
    """Return the open connections of clients by what the kernel calls their other end."""
    ours = f'$4 == "01" && $2 ~ /:{stack.broker_port:04X}$/ {{ print $3 }}'
    return set(stack.target.network(node, f"awk '{ours}' /proc/net/tcp /proc/net/tcp6").split())


@fault(
    "broker-descriptor-limit",
    f"let a broker reach its limit of open files for {SECONDS:g} s: it takes no new connection; restart it",
    "rabbit",
    lasts="rabbit",
)
def _broker(stack: Stack, _rng: random.Random) -> Plan:
    node, s = serving(stack), stack.settings
    own = next(one for one in stack.management("nodes") if one["name"].partition("@")[2] == node.host)
    pid = int(own["os_pid"])

    def run(script: str) -> str:
        return stack.target.run(node, "sh", "-ec", owner(pid, script))

    def limit() -> int:
        return int(run(f"prlimit --pid {pid} --nofile --output SOFT --noheadings"))

    before, clients = limit(), _connections(stack, node)
    raised = owner(pid, f"prlimit --pid {pid} --nofile={before}:")
    lower = (
        f"n=0; while [ -L /proc/{pid}/fd/$n ]; do n=$((n + 1)); done\n"  # the first number that is free
        f"prlimit --pid {pid} --nofile=$n:"
    )

    def fill() -> bool:
        run(lower)
        return not _answers(node, stack.broker_port)  # if it does, a file was open for a moment only: again

    def apply() -> None:
        if not stack.wait(fill, 10):
            raise TargetError(f"{node.name} still answers new connections at a limit of {limit()} open files.")

    def proof() -> str:
        now, left = limit(), len(clients & _connections(stack, node))
        if now >= before or not left or _answers(node, stack.broker_port):
            return ""
        said = f"{node.name} may open no file beyond {now} and answers no new client"
        return f"{said}; {left} of {len(clients)} connections from before go on"

    def healed() -> str:
        watches = stack.ctl(node, "eval", "is_pid(whereis(vm_memory_monitor)).").strip() == "true"
        whole = watches and limit() == before and _answers(node, stack.broker_port)
        return f"{node.name} may open {before} files, answers, and watches its memory" if whole else ""

    elsewhere = Bound("publish", s.connect + SLACK, "apply", f"another broker is tried after {s.connect:g} + {SLACK}")
    return Plan(
        [node.name],
        apply,
        proof,
        # a limit that is raised again does not heal it: it has given up its statistics and its memory alarm
        [
            ("run", node.name, "sh", "-ec", f"[ ! -d /proc/{pid} ] || {raised}"),  # a process that is gone has no limit
            *(("ctl", node.name, f"{verb}_app") for verb in ("stop", "start")),
        ],
        healed,
        [elsewhere, *seen_to_go(s)[1:]],
        SECONDS,
    )

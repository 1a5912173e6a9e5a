"""A target in memory, for what needs no servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from drill.targets import Disks, Logins, Node, Process, Target, TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drill.targets.stack import Stack


class FakeTarget:
    """Nodes with a state each; notes what is done to them."""

    name = "fake"
    scrape: Path | None = None
    disks: Disks | None = None

    def __init__(self, *names: str) -> None:
        self.nodes = {
            name: Node(name, name.rstrip("0123456789"), f"10.0.0.{number}", name, name)
            for number, name in enumerate(names, start=1)
        }
        self.state = dict.fromkeys(names, "running")
        self.done: list[str] = []
        self.broken: set[str] = set()

    def _do(self, verb: str, node: Node, state: str | None = None) -> None:
        if verb in self.broken:
            raise TargetError(f"{verb} failed")
        self.done.append(f"{verb} {node.name}")
        if state:
            self.state[node.name] = state

    def logins(self) -> Logins:
        return Logins(lambda name: name, {})

    def refresh(self) -> None:
        self.done.append("refresh")

    def states(self) -> dict[str, str]:
        return dict(self.state)

    def birth(self, node: Node) -> str:
        return str(sum(entry == f"start {node.name}" for entry in self.done))

    def kill(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self._do("kill", node, "exited")

    def crash(self, nodes: Sequence[Node]) -> None:
        self.kill(nodes)

    def start(self, node: Node) -> None:
        self._do("start", node, "running")

    def stop(self, node: Node) -> None:
        self._do("stop", node, "exited")

    def pause(self, node: Node) -> None:
        self._do("pause", node, "paused")

    def resume(self, node: Node) -> None:
        self._do("resume", node, "running")

    def run(self, node: Node, *command: str, timeout: float = 60) -> str:
        self._do(" ".join(command), node)
        return str(timeout)

    def processes(self, node: Node) -> list[Process]:
        return [Process(1, 0, node.name)]

    def signal(self, node: Node, pids: Sequence[int], name: str) -> None:
        self.done.append(f"{name} {node.name} {pids}")

    def network(self, node: Node, script: str) -> str:
        self._do("network", node)
        return script

    def open_ledger(self, folder: Path) -> None:
        self.done.append(f"open {folder}")

    def fetch_ledger(self, folder: Path) -> None:
        self.done.append(f"fetch {folder}")


class FakeStack:
    """What the journal and the simple faults need of a stack."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def node(self, name: str) -> Node:
        return self.target.nodes[name]


def fake_stack(*names: str) -> tuple[FakeTarget, Stack]:
    """Return a target with these nodes, and a stack on it."""
    target = FakeTarget(*names)
    return target, cast("Stack", FakeStack(target))

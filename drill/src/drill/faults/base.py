"""What a fault is: a plan to apply it, to prove it, to undo it and to prove that, and what must hold meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drill.targets import TargetError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from drill.faults.record import Bound
    from drill.targets import Node
    from drill.targets.stack import Stack

type Undo = tuple[str, ...]
"""A verb of :func:`undo` and its arguments: text only, because it is written to the heal journal."""

SLACK = 1.0  # seconds in every bound: the load's own rhythm, and the reading of the clock around the fault
ELECTION = 1.1  # seconds; a leader whose node is seen to go: up to 0.6 until a member stands, and a vote


@dataclass
class Plan:
    """One fault on chosen targets.

    Attributes:
        targets: names of what is hit.
        apply: does it.
        proof: reads back that it holds, in words; empty while it does not.
        undo: how to heal it, also from a new process; done in this order.
        healed: reads back that it is over, in words; empty while it is not.
        bounds: what must hold.
        hold: seconds between proof and healing.
        silent: no publish may be confirmed while it holds.
    """

    targets: list[str]
    apply: Callable[[], object]
    proof: Callable[[], str]
    undo: list[Undo]
    healed: Callable[[], str]
    bounds: list[Bound]
    hold: float
    silent: bool = False


@dataclass(frozen=True)
class Spec:
    """An entry of the registry.

    Attributes:
        name: what the user types.
        does: what it breaks, in words.
        needs: tiers that the target must have; ``disks``: that can lose power.
        plan: chooses targets with the given random numbers and returns the plan.
        sets: the named sets that it belongs to, beside ``full``.
        takes: tier of each node that it takes away; None for a fault that is no part of a pair.
        lasts: until it is healed, so that another one can happen meanwhile.
    """

    name: str
    does: str
    needs: tuple[str, ...]
    plan: Callable[[Stack, random.Random], Plan]
    sets: tuple[str, ...] = field(default=())
    takes: tuple[str, ...] | None = None
    lasts: bool = False


REGISTRY: dict[str, Spec] = {}


def fault(
    name: str, does: str, needs: str, sets: str = "", *, takes: str | None = None, lasts: str | None = None
) -> Callable[[Callable[[Stack, random.Random], Plan]], Callable[[Stack, random.Random], Plan]]:
    """Put a function that plans a fault into the registry.

    Args:
        name: of the fault.
        does: what it breaks, in words.
        needs: names of tiers, separated by spaces.
        sets: names of sets, separated by spaces.
        takes: tier of each node that is away for a moment, separated by spaces.
        lasts: the same, until it is healed. A fault with neither is no part of a pair: it changes definitions, works
            in steps, or hits several tiers.
    """
    away = takes if lasts is None else lasts
    words = None if away is None else tuple(away.split())

    def register(plan: Callable[[Stack, random.Random], Plan]) -> Callable[[Stack, random.Random], Plan]:
        REGISTRY[name] = Spec(name, does, tuple(needs.split()), plan, tuple(sets.split()), words, lasts is not None)
        return plan

    return register


def undo(stack: Stack, step: Undo) -> None:
    """Do one step of healing; doing it again, or without need, is harmless.

    Raises:
        TargetError: it failed.
    """
    verb, name, *arguments = step
    node = stack.node(name)
    match verb:
        case "start":
            if stack.target.states()[name] not in {"running", "restarting"}:
                stack.target.start(node)
        case "resume":
            if stack.target.states()[name] == "paused":
                stack.target.resume(node)
        case "open":
            stack.target.network(node, OPEN)
        case "ctl":
            stack.ctl(node, *arguments)
        case "run":
            stack.target.run(node, *arguments)
        case _:
            raise TargetError(f"The heal journal has the unknown verb {verb!r}; it was written by another version.")


CLOSE = "iptables -N DRILL; iptables -I INPUT -j DRILL; iptables -I OUTPUT -j DRILL"
OPEN = """
iptables -D INPUT -j DRILL 2>/dev/null || true
iptables -D OUTPUT -j DRILL 2>/dev/null || true
iptables -F DRILL 2>/dev/null || true
iptables -X DRILL 2>/dev/null || true
"""


def cut(stack: Stack, node: Node, rules: list[str]) -> None:
    """Put firewall rules into the network of a node; ``open`` takes them out.

    Args:
        stack: the stack.
        node: whose network.
        rules: of iptables, without chain and table.
    """
    stack.target.network(node, "\n".join([OPEN, CLOSE, *(f"iptables -A DRILL {rule}" for rule in rules)]))


def dropped(stack: Stack, node: Node) -> str:
    """Return how many packets the rules of :func:`cut` have hit, in words; empty for none."""
    lines = stack.target.network(node, "iptables -L DRILL -nvx").splitlines()[2:]
    hits = sum(int(line.split()[0]) for line in lines)
    return f"{hits} packets of {node.name} dropped or refused" if hits else ""


def is_open(stack: Stack, nodes: list[Node]) -> str:
    """Return that no rule is left, in words; empty while one is."""
    if any("DRILL" in stack.target.network(node, "iptables -S") for node in nodes):
        return ""
    return f"no rule left on {', '.join(node.name for node in nodes)}"


def are(stack: Stack, nodes: list[Node], state: str) -> str:
    """Return that all nodes are in a state, in words; empty while they are not."""
    states = stack.target.states()
    if all(states[node.name] == state for node in nodes):
        return f"{', '.join(node.name for node in nodes)} {state}"
    return ""


def reborn(stack: Stack, births: dict[str, str]) -> str:
    """Return that the nodes' main processes are not those of ``births``, in words; empty while one is."""
    states = stack.target.states()
    if all(states[name] != "running" or stack.target.birth(stack.node(name)) != born for name, born in births.items()):
        return f"the processes of {', '.join(births)} are gone"
    return ""


def each(action: Callable[[Node], object], nodes: list[Node]) -> None:
    """Do something to each node."""
    for node in nodes:
        action(node)


def kill(stack: Stack, nodes: list[Node], bounds: list[Bound], hold: float, *, silent: bool = False) -> Plan:
    """Plan to kill nodes and to start them again after ``hold`` seconds."""
    return Plan(
        [node.name for node in nodes],
        lambda: stack.target.kill(nodes),
        lambda: are(stack, nodes, "exited"),
        [("start", node.name) for node in nodes],
        lambda: are(stack, nodes, "running"),
        bounds,
        hold,
        silent,
    )


def crash(stack: Stack, nodes: list[Node], bounds: list[Bound], hold: float = 5) -> Plan:
    """Plan to kill nodes' main processes; supervision must start them again within ``hold`` seconds or later."""
    births = {node.name: stack.target.birth(node) for node in nodes}
    return Plan(
        [node.name for node in nodes],
        lambda: stack.target.crash(nodes),
        lambda: reborn(stack, births),
        [],  # supervision heals
        lambda: are(stack, nodes, "running"),
        bounds,
        hold,
    )


def pause(stack: Stack, nodes: list[Node], bounds: list[Bound], hold: float) -> Plan:
    """Plan to freeze nodes for ``hold`` seconds."""
    return Plan(
        [node.name for node in nodes],
        lambda: each(stack.target.pause, nodes),
        lambda: are(stack, nodes, "paused"),
        [("resume", node.name) for node in nodes],
        lambda: are(stack, nodes, "running"),
        bounds,
        hold,
    )


def partition(stack: Stack, rules: dict[str, list[str]], bounds: list[Bound], hold: float) -> Plan:
    """Plan firewall rules by node name for ``hold`` seconds; proven when packets were dropped on each node."""
    nodes = [stack.node(name) for name in rules]

    def proof() -> str:
        hits = [dropped(stack, node) for node in nodes]
        return "; ".join(hits) if all(hits) else ""

    return Plan(
        list(rules),
        lambda: each(lambda node: cut(stack, node, rules[node.name]), nodes),
        proof,
        [("open", name) for name in rules],
        lambda: is_open(stack, nodes),
        bounds,
        hold,
    )


def from_peers(node: Node, *peers: Node) -> list[str]:
    """Return rules for a node that drop what it would hear from the peers."""
    return [f"-s {peer.address} {node.inward} -j DROP" for peer in peers]


def both_ways(node: Node, *peers: Node) -> list[str]:
    """Return rules for a node that drop everything between it and the peers."""
    return from_peers(node, *peers) + [f"-d {peer.address} {node.outward} -j DROP" for peer in peers]

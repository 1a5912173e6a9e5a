"""Two faults that overlap: which pairs there are, what they leave of the stack, and what must hold meanwhile.

A pair is named ``first+second``. The first lasts until it is healed; the second is planned and applied once the first
is proven, so it hits whoever has taken over. Both are proven then: the first must still hold.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from drill.faults.base import REGISTRY, Plan
from drill.faults.broker import BOOT
from drill.faults.record import Bound
from drill.targets import TargetError

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from drill.targets.stack import Stack

JOIN = "+"
SUPERVISED = {"worker", "beat", "relay"}  # on hosts one unit runs them all
DOWN = {"exited", "paused"}

# What stands still while two faults take more of a tier than it can spare; docs/how-to/drill.md says the same.
ENDS = {
    "rabbit": "no majority of brokers is left: no publish is confirmed, and no task is delivered",
    "redis": "the Redis primary has no replica, or is away itself: no result is stored",
    "sentinel": "no majority of Sentinels is left to replace the Redis primary: no result is stored",
    "worker": "no worker is left: tasks wait in their queues",
}
# Streams in whose bounds a stream's own is contained: a task ends when its result is stored, and results need tasks.
_NEEDS = {
    "publish": ("publish",),
    "work": ("work", "results"),
    "results": ("work", "results"),
    "rerun": ("work", "results", "rerun"),
}


def parts(name: str) -> list[str]:
    """Return the names of the single faults in the name of a fault or a pair."""
    return name.split(JOIN)


def problem(name: str) -> str:
    """Return why nothing of this name can be injected, in words; empty if it can."""
    names = parts(name)
    unknown = [part for part in names if part not in REGISTRY]
    if unknown:
        return f"There is no fault {', '.join(unknown)}."
    if len(names) == 1:
        return ""
    if name not in every():
        return f"{name} is no pair: it takes two faults that say what they take away, and the first must last."
    return ""


def needs(name: str) -> set[str]:
    """Return the tiers that the target must have."""
    return {tier for part in parts(name) for tier in REGISTRY[part].needs}


def every() -> list[str]:
    """Return all pairs, in the order of the registry."""
    seconds = [spec for spec in REGISTRY.values() if spec.takes is not None]
    firsts = [spec for spec in seconds if spec.lasts]
    return [f"{first.name}{JOIN}{second.name}" for first in firsts for second in seconds if first is not second]


def stops(name: str, sizes: Mapping[str, int]) -> list[str]:
    """Return the tiers that have too few nodes left under a fault or a pair; empty if the guarantee covers it.

    The two are counted as if they hit different nodes.

    Args:
        name: of the fault or pair.
        sizes: nodes of each tier.
    """
    taken = Counter(tier for part in parts(name) for tier in REGISTRY[part].takes or ())
    least = {
        "rabbit": sizes.get("rabbit", 0) // 2 + 1,
        "redis": 2,  # the primary takes a write only with a replica
        "sentinel": sizes.get("sentinel", 0) // 2 + 1 if taken["redis"] else 0,  # only a failover asks them
        "worker": 1,
    }
    return [tier for tier, number in least.items() if taken[tier] and sizes.get(tier, 0) - taken[tier] < number]


def ends(name: str, sizes: Mapping[str, int]) -> list[str]:
    """Return how a pair that is not covered must end, in words; nothing for one that is, and for a single fault."""
    return [ENDS[tier] for tier in stops(name, sizes)] if JOIN in name else []


def covered(sizes: Mapping[str, int]) -> list[str]:
    """Return the pairs under which the guarantee promises progress, for a stack of these sizes."""
    return [name for name in every() if needs(name) <= sizes.keys() and not stops(name, sizes)]


def sizes(stack: Stack) -> dict[str, int]:
    """Return how many nodes of each tier a stack has."""
    return Counter(node.tier for node in stack.target.nodes.values())


def plan(stack: Stack, name: str, before: Sequence[Plan], rng: random.Random) -> Plan:
    """Return the plan of a single fault that touches nothing of what others hold.

    Args:
        stack: the stack.
        name: of the single fault.
        before: plans of those that hold.
        rng: chooses the targets.

    Raises:
        TargetError: this choice would hit the same node, or undo a cut of its network.
    """
    found = REGISTRY[name].plan(stack, rng)
    both = _grips(stack, found) & {grip for other in before for grip in _grips(stack, other)}
    if both:
        raise TargetError(f"{name} would touch what the first fault holds: {', '.join(sorted(map(' '.join, both)))}.")
    return found


def bounds(name: str, plans: Sequence[Plan], sizes: Mapping[str, int]) -> list[Bound]:
    """Return what must hold under plans that overlap: at worst one recovery waits for the other.

    Args:
        name: of the fault or pair.
        plans: of its parts.
        sizes: nodes of each tier.
    """
    if len(plans) == 1:
        return plans[0].bounds
    stand_still = bool(stops(name, sizes))
    found = []
    for stream, needed in _NEEDS.items():
        if not any(bound.stream == stream for plan in plans for bound in plan.bounds):
            continue
        longest = [
            max(
                (bound for bound in plan.bounds if bound.stream in needed),
                key=lambda bound: bound.seconds,
                default=None,
            )
            for plan in plans
        ]
        added = [bound for bound in longest if bound is not None]
        late = stand_still or any(bound.since == "heal" for bound in added)
        total, text = sum(bound.seconds for bound in added), " + ".join(f"({bound.formula})" for bound in added)
        if stand_still:
            total, text = total + BOOT, f"boot {BOOT:g} + {text}"
        found.append(Bound(stream, total, "heal" if late else "apply", text))
    return found


def silent(stack: Stack, name: str, plans: Sequence[Plan]) -> bool:
    """Return whether nobody may get a confirm while the plans hold: a majority of the brokers is down until healed."""
    if len(plans) == 1 or any(plan.silent for plan in plans):
        return any(plan.silent for plan in plans)
    lasting = {
        target for part, plan in zip(parts(name), plans, strict=True) if REGISTRY[part].lasts for target in plan.targets
    }
    brokers, states = stack.tier("rabbit"), stack.target.states()
    down = [node for node in brokers if node.name in lasting and states[node.name] in DOWN]
    return len(brokers) - len(down) < len(brokers) // 2 + 1


def _grips(stack: Stack, plan: Plan) -> set[tuple[str, str]]:
    """Return what a plan holds, and nothing else may touch."""
    found = set()
    for target in plan.targets:
        node = stack.target.nodes.get(target)  # a publisher is no node
        if node is not None and node.tier in SUPERVISED:
            found.add(("supervisor", node.host))
        else:
            found.add(("node", target))
    found |= {("network", stack.node(name).host) for verb, name, *_ in plan.undo if verb == "open"}
    return found

"""Power cuts: nodes stop at once, and their disks keep only what an ``fsync`` or the kernel itself had written.

Each cut proves itself: a control file that was written without ``fsync`` just before must have lost its content, and
one that was written with ``fsync`` must have it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from drill.faults.base import Plan, are, each, fault, undo
from drill.faults.broker import BOOT, members, silent
from drill.faults.record import Bound
from drill.faults.redis import PROMOTION, failover, replicas
from drill.targets import TargetError

if TYPE_CHECKING:
    import random

    from drill.targets import Disks, Node
    from drill.targets.stack import Stack

OFF = 3.0  # seconds without power
TWICE = 60.0  # seconds in which the second cut must follow the first
ROLL = 0.1  # seconds between two files of a broker's write-ahead log
ROLLED = 10  # files that each broker must have begun before the cut
# a process in the broker begins them, because one call of rabbitmqctl takes seconds; it ends with the power
_ROLL = (
    f"spawn(fun() -> [{{ra_log_wal:force_roll_over(ra_log_wal), timer:sleep({ROLL * 1000:.0f})}}"
    " || _ <- lists:seq(1, 1200)] end), ok."
)
_FILES = "maps:get(wal_files, ra_counters:counters(ra_log_wal, [wal_files]))."


def _disks(stack: Stack) -> Disks:
    """Return the target's disks.

    Raises:
        TargetError: they cannot lose power.
    """
    if stack.target.disks is None:
        raise TargetError("The disks of this target cannot lose power. Next: drill power")
    return stack.target.disks


def cut(stack: Stack, nodes: list[Node]) -> str:
    """Cut the power of nodes; they stay down.

    All are frozen before the first disk is copied: the copies are those of one instant.

    Returns:
        What the control files say; empty when they do not prove a power cut.
    """
    disks, names = _disks(stack), [node.name for node in nodes]
    disks.mark(names)
    states = stack.target.states()
    # Redis before brokers: workers store results up to the last moment, and those are what a late flush loses
    each(stack.target.pause, [node for node in reversed(nodes) if states[node.name] != "paused"])
    disks.keep(names)
    stack.target.kill(nodes)
    each(lambda node: undo(stack, ("resume", node.name)), nodes)  # a frozen process dies when it thaws
    if not stack.wait(lambda: are(stack, nodes, "exited"), 30):
        raise TargetError(f"{', '.join(names)} did not die within 30 s.")
    return disks.lose(names)


def _bounds(stack: Stack) -> list[Bound]:
    """Return the bounds from the moment on at which the power of a majority is back."""
    s = stack.settings
    boot, results = 2 * BOOT + s.attempt, failover(s)[0]
    text = f"boots at once 2 x {BOOT:g} + one attempt {s.attempt:g}"
    return [
        Bound("publish", boot, "heal", text),
        Bound("work", boot + s.disconnected, "heal", f"{text} + disconnected consumers {s.disconnected:g}"),
        Bound("results", BOOT + results.seconds, "heal", f"boot {BOOT:g} + {results.formula}"),
    ]


def _plan(stack: Stack, nodes: list[Node], bounds: list[Bound]) -> Plan:
    _disks(stack)
    said: list[str] = []

    def proof() -> str:
        return said[0] if said and are(stack, nodes, "exited") else ""

    return Plan(
        [node.name for node in nodes],
        lambda: said.append(cut(stack, nodes)),
        proof,
        [(verb, node.name) for verb in ("resume", "start") for node in nodes],
        lambda: are(stack, nodes, "running"),
        bounds,
        OFF,
    )


def _all(stack: Stack) -> list[Node]:
    """Return every node whose disk can lose power."""
    return [stack.node(name) for name in _disks(stack).names()]


@fault("power-single", "cut the power of the broker that leads and of the Redis primary", "rabbit redis disks")
def _single(stack: Stack, rng: random.Random) -> Plan:
    bounds = [*silent(stack.settings), *failover(stack.settings)]  # first frozen, then dead: others must take over
    return _plan(stack, [members(stack, rng)[0], stack.primary()], bounds)


@fault(
    "power-majority", "cut the power of two brokers and two Redis nodes, the leaders among them", "rabbit redis disks"
)
def _majority(stack: Stack, rng: random.Random) -> Plan:
    leader, others = members(stack, rng)
    return _plan(stack, [leader, others[0], stack.primary(), replicas(stack, rng)[0]], _bounds(stack))


@fault("power-all", "cut the power of all brokers, all Redis nodes and the database at once", "rabbit redis disks")
def _everything(stack: Stack, _rng: random.Random) -> Plan:
    return _plan(stack, _all(stack), _bounds(stack))


@fault("power-failover", "freeze the leaders, cut all power while others take over", "rabbit redis disks")
def _failover(stack: Stack, rng: random.Random) -> Plan:
    nodes, first = _all(stack), [members(stack, rng)[0], stack.primary()]
    plan = _plan(stack, nodes, _bounds(stack))
    power, longest = plan.apply, stack.settings.sentinel + PROMOTION

    def apply() -> None:
        each(stack.target.pause, first)  # dead to the others, and what their kernel holds is not yet written
        time.sleep(rng.uniform(2 * stack.settings.poll, longest))  # before, while or after others are elected
        power()

    plan.apply = apply
    return plan


@fault("power-twice", "cut all power, and again while the servers come back, within a minute", "rabbit redis disks")
def _twice(stack: Stack, rng: random.Random) -> Plan:
    nodes = _all(stack)
    plan = _plan(stack, nodes, _bounds(stack))
    said: list[str] = []

    def apply() -> None:
        said.append(cut(stack, nodes))
        began = time.monotonic()
        each(lambda node: undo(stack, ("start", node.name)), nodes)
        time.sleep(rng.uniform(5.0, 20.0))
        said.append(cut(stack, nodes))
        said.append(f"{time.monotonic() - began:.0f} s apart" if time.monotonic() - began < TWICE else "")

    plan.apply = apply
    plan.proof = lambda: "; ".join(said) if len(said) == 3 and all(said) and are(stack, nodes, "exited") else ""
    return plan


@fault(
    "power-roll-over",
    f"cut all power while each broker begins a new file of its write-ahead log every {ROLL:g} s",
    "rabbit redis disks",
)
def _roll_over(stack: Stack, _rng: random.Random) -> Plan:
    nodes = _all(stack)
    brokers = [node for node in nodes if node.tier == "rabbit"]
    plan = _plan(stack, nodes, _bounds(stack))
    power, cut_proof, begun = plan.apply, plan.proof, dict.fromkeys((node.name for node in brokers), 0)

    def files() -> dict[str, int]:
        return {node.name: int(stack.ctl(node, "eval", _FILES)) for node in brokers}

    def apply() -> None:
        before = files()
        each(lambda node: stack.ctl(node, "eval", _ROLL), brokers)

        def rolled() -> bool:
            begun.update({name: number - before[name] for name, number in files().items()})
            return min(begun.values()) >= ROLLED

        if not stack.wait(rolled, 60):
            raise TargetError(f"The brokers began only {begun} files of their write-ahead logs in 60 s.")
        power()

    plan.apply = apply
    plan.proof = lambda: f"{said}; files of the write-ahead log: {begun}" if (said := cut_proof()) else ""
    return plan

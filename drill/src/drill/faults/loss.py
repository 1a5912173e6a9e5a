"""Networks that lose a part of the packets: TCP repeats each, 0.2 s later and more, and nobody is cut off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from drill.faults.base import Plan, both_ways, fault, partition
from drill.faults.broker import members, silent
from drill.faults.redis import failover

if TYPE_CHECKING:
    import random

    from drill.faults.record import Bound
    from drill.targets import Node
    from drill.targets.stack import Stack

PERCENT = 5  # of the packets of each direction
SECONDS = 20.0


def _of_port(port: int) -> list[str]:
    return [f"-p tcp --{side} {port} -j DROP" for side in ("dport", "sport")]


def seldom(rules: list[str]) -> list[str]:
    """Return, for each rule that drops packets, one that counts them all and one that drops :data:`PERCENT`."""
    matches = [rule.removesuffix(" -j DROP") for rule in rules]
    some = f"-m statistic --mode random --probability {PERCENT / 100} -j DROP"
    return [rule for match in matches for rule in (match, f"{match} {some}")]


def _lossy(stack: Stack, node: Node, rules: list[str], bounds: list[Bound]) -> Plan:
    def proof() -> str:
        lines = stack.target.network(node, "iptables -L DRILL -nvx").splitlines()[2:]
        hits = [(int(line.split()[0]), " DROP " in line) for line in lines]
        seen, lost = (sum(number for number, drops in hits if drops is which) for which in (False, True))
        return f"{lost} of {seen} packets of {node.name} were lost" if 0 < lost < seen else ""

    return replace(partition(stack, {node.name: seldom(rules)}, bounds, SECONDS), proof=proof)


@fault(
    "broker-lossy",
    f"lose {PERCENT}% of the packets between the broker that leads, its clients and the others for {SECONDS:g} s",
    "rabbit",
    lasts="rabbit",
)
def _broker(stack: Stack, rng: random.Random) -> Plan:
    leader, others = members(stack, rng)
    # at worst the others take it for dead
    return _lossy(stack, leader, both_ways(leader, *others) + _of_port(stack.broker_port), silent(stack.settings))


@fault(
    "redis-lossy",
    f"lose {PERCENT}% of the packets between the Redis primary, its clients, replicas and Sentinels for {SECONDS:g} s",
    "redis sentinel",
    lasts="redis",
)
def _redis(stack: Stack, _rng: random.Random) -> Plan:
    return _lossy(stack, stack.primary(), _of_port(6379), failover(stack.settings))  # all of them connect to it

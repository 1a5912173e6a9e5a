"""Faults of Redis and Sentinel: results, chords, beat's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drill.faults.base import SLACK, Plan, are, both_ways, crash, fault, kill, partition, pause
from drill.faults.record import Bound

if TYPE_CHECKING:
    import random

    from drill.targets import Node
    from drill.targets.stack import Settings, Stack

PROMOTION = 4.0  # seconds; pings, asking the others, a random wait and the promotion, each up to one


def failover(s: Settings) -> list[Bound]:
    """Return the bound of results while Sentinel replaces the primary."""
    total = s.sentinel + PROMOTION + s.redis_timeout + SLACK
    text = f"down-after {s.sentinel:g} + promotion {PROMOTION:g} + client time-out {s.redis_timeout:g} + {SLACK}"
    return [Bound("results", total, "apply", text)]


def replicas(stack: Stack, rng: random.Random) -> list[Node]:
    """Return the replicas in random order."""
    primary = stack.primary()
    found = [node for node in stack.tier("redis") if node != primary]
    rng.shuffle(found)
    return found


def _failed_over(stack: Stack, plan: Plan, before: Node) -> Plan:
    """Let the proof say, too, that another node has become the primary."""
    first = plan.proof

    def proof() -> str:
        found, primary = first(), stack.primary()
        return f"{found}; {primary.name} is the primary" if found and primary != before else ""

    plan.proof = proof
    return plan


@fault(
    "redis-primary-kill",
    "kill the Redis primary, start it after the failover",
    "redis sentinel",
    "smoke standard soak",
    lasts="redis",
)
def _primary_kill(stack: Stack, _rng: random.Random) -> Plan:
    primary = stack.primary()
    return _failed_over(stack, kill(stack, [primary], failover(stack.settings), 5), primary)


@fault(
    "redis-primary-crash",
    "kill -9 of the Redis primary, supervision starts it at once",
    "redis sentinel",
    "standard soak",
    takes="redis",
)
def _primary_crash(stack: Stack, _rng: random.Random) -> Plan:
    return crash(stack, [stack.primary()], failover(stack.settings))


@fault(
    "redis-primary-pause",
    "freeze the Redis primary for 15 s",
    "redis sentinel",
    "standard soak",
    lasts="redis",
)
def _primary_pause(stack: Stack, _rng: random.Random) -> Plan:
    primary = stack.primary()
    return _failed_over(stack, pause(stack, [primary], failover(stack.settings), 15), primary)


@fault(
    "redis-primary-isolate",
    "cut the Redis primary off from replicas and Sentinels; clients still reach it",
    "redis sentinel",
    "standard soak",
    lasts="redis",
)
def _primary_isolate(stack: Stack, rng: random.Random) -> Plan:
    primary = stack.primary()
    peers = [*replicas(stack, rng), *stack.tier("sentinel")]
    rules = {primary.name: both_ways(primary, *peers)}
    return _failed_over(stack, partition(stack, rules, failover(stack.settings), 15), primary)


@fault(
    "redis-replicas-kill",
    "kill both replicas: the primary must refuse writes",
    "redis sentinel",
    "standard",
    lasts="redis redis",
)
def _replicas_kill(stack: Stack, rng: random.Random) -> Plan:
    s = stack.settings
    total = 5 + s.redis_timeout + SLACK
    bound = Bound(
        "results", total, "heal", f"a replica follows again 5 + a client's next try {s.redis_timeout:g} + {SLACK}"
    )
    return kill(stack, replicas(stack, rng), [bound], 12)


@fault(
    "redis-all-kill", "kill -9 of all Redis nodes at once", "redis sentinel", "standard soak", takes="redis redis redis"
)
def _all_kill(stack: Stack, _rng: random.Random) -> Plan:
    failover_time = failover(stack.settings)[0]
    bound = Bound("results", 5 + failover_time.seconds, "apply", f"start 5 + {failover_time.formula}")
    return crash(stack, stack.tier("redis"), [bound], 8)


@fault(
    "sentinel-kill",
    "kill a Sentinel, then the Redis primary",
    "redis sentinel",
    "standard soak",
    lasts="redis sentinel",
)
def _sentinel_kill(stack: Stack, rng: random.Random) -> Plan:
    primary, sentinel = stack.primary(), rng.choice(stack.tier("sentinel"))
    return _failed_over(stack, kill(stack, [sentinel, primary], failover(stack.settings), 5), primary)


@fault(
    "sentinel-majority-kill",
    "kill two Sentinels: no failover, no split brain, no effect",
    "redis sentinel",
    "standard soak",
    lasts="sentinel sentinel",
)
def _sentinel_majority(stack: Stack, rng: random.Random) -> Plan:
    chosen = rng.sample(stack.tier("sentinel"), 2)
    bound = Bound("results", 4 + SLACK, "apply", f"nothing waits for Sentinel but a new connection, 4 + {SLACK}")
    return kill(stack, chosen, [bound], 8)


@fault("redis-double-failover", "fail over by command, then kill the new primary", "redis sentinel", "standard")
def _double(stack: Stack, _rng: random.Random) -> Plan:
    first = stack.primary()
    epoch = stack.epoch()
    chosen: list[Node] = []

    def apply() -> None:
        with stack.redis(stack.tier("sentinel")[0], "admin") as client:
            client.execute_command("SENTINEL", "FAILOVER", "results")
        stack.wait(lambda: stack.primary() != first, 20)
        chosen.append(stack.primary())
        stack.target.kill(chosen)

    def proof() -> str:
        if not chosen or chosen[0] == first or stack.primary() == chosen[0]:
            return ""
        return f"epoch {epoch} became {stack.epoch()}; {chosen[0].name} was the primary and is dead"

    return Plan(
        [first.name],
        apply,
        proof,
        [("start", node.name) for node in stack.tier("redis")],
        lambda: are(stack, stack.tier("redis"), "running"),
        [Bound("results", 45, "apply", "two failovers within one failover-timeout 45")],
        5,
    )

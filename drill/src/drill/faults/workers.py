"""Faults of workers, beat, the watchers, and of the way a message takes."""

from __future__ import annotations

import json
import random  # noqa: TC003 - beside Stack it is in each signature
from typing import TYPE_CHECKING

from drill.faults import broker, redis
from drill.faults.base import SLACK, Plan, are, crash, fault, kill, pause, reborn
from drill.faults.record import Bound
from drill.targets import TargetError
from drill.targets.stack import QUEUES

if TYPE_CHECKING:
    from drill.targets import Node, Process
    from drill.targets.stack import Settings, Stack


def others_go_on(seconds: float = 3.0) -> list[Bound]:
    """Return the bound while another worker host carries on."""
    return [Bound("work", seconds + SLACK, "apply", f"the other hosts go on; {seconds:g} for a busy machine + {SLACK}")]


def _parents(processes: list[Process]) -> list[Process]:
    """Return the workers' parent processes: Celery, whose parent is no Celery."""
    celery = {p.pid: p for p in processes if "celery" in p.command and " worker " in p.command}
    return [p for p in celery.values() if p.parent not in celery]


def _signal(stack: Stack, rng: random.Random, *, children: bool) -> Plan:
    node = rng.choice(stack.tier("worker"))
    killed: list[Process] = []

    def candidates() -> list[Process]:
        found = stack.target.processes(node)
        parents = {p.pid for p in _parents(found)}
        same = [p for p in found if (p.parent in parents if children else p.pid in parents)]
        return sorted(same, key=lambda p: p.pid)

    def strike() -> bool:
        found = candidates()
        if not found:
            return False
        victim = rng.choice(found)
        stack.target.signal(
            node, [victim.pid], "KILL"
        )  # refused when the worker has just replaced it: then another one
        killed.append(victim)
        return True

    def apply() -> None:
        if not stack.wait(strike, 10):
            raise TargetError(f"No such process of {node.name} could be killed within 10 s.")

    def proof() -> str:
        gone = killed[0] not in stack.target.processes(node)
        return f"process {killed[0].pid} of {node.name} is gone" if gone else ""

    def healed() -> str:
        same = candidates()
        return f"{node.name} has {len(same)} such processes again" if len(same) >= before else ""

    before = len(candidates())
    return Plan([node.name], apply, proof, [], healed, others_go_on(), 3)


@fault("worker-child-kill", "kill -9 of a child process that runs a task", "worker", "smoke standard soak", takes="")
def _child(stack: Stack, rng: random.Random) -> Plan:
    return _signal(stack, rng, children=True)


@fault("worker-parent-kill", "kill -9 of a worker's parent process", "worker", "standard soak", takes="worker")
def _parent(stack: Stack, rng: random.Random) -> Plan:
    return _signal(stack, rng, children=False)


@fault(
    "worker-host-kill",
    "kill -9 of all processes of a worker host",
    "worker",
    "smoke standard soak",
    lasts="worker",
)
def _host(stack: Stack, rng: random.Random) -> Plan:
    return kill(stack, [rng.choice(stack.tier("worker"))], others_go_on(), 5)


@fault("worker-all-kill", "kill all worker hosts at once", "worker", "standard soak", takes="worker worker")
def _all(stack: Stack, _rng: random.Random) -> Plan:
    bound = Bound("work", 40, "apply", "start of the workers on a busy machine 40")
    return crash(stack, stack.tier("worker"), [bound])


@fault(
    "worker-pause",
    "freeze a worker host for longer than its connections live",
    "worker",
    "standard soak",
    lasts="worker",
)
def _pause(stack: Stack, rng: random.Random) -> Plan:
    hold = 2.5 * stack.settings.heartbeat
    return pause(stack, [rng.choice(stack.tier("worker"))], others_go_on(), hold)


@fault("worker-stop", "stop a worker host in order, start it again", "worker", "standard soak", lasts="worker")
def _stop(stack: Stack, rng: random.Random) -> Plan:
    node = rng.choice(stack.tier("worker"))
    return Plan(
        [node.name],
        lambda: stack.target.stop(node),
        lambda: are(stack, [node], "exited"),
        [("start", node.name)],
        lambda: are(stack, [node], "running"),
        others_go_on(),
        2,
    )


@fault("publisher-kill", "kill -9 of a publisher process; another one starts", "", "standard soak", takes="")
def _publisher(stack: Stack, rng: random.Random) -> Plan:
    pool = stack.publishers
    if pool is None:
        raise LookupError("no publisher runs")
    victim = rng.choice(pool.names())
    successors: list[str] = []
    return Plan(
        [victim],
        lambda: successors.append(pool.replace(victim)),
        lambda: "" if victim in pool.names() else f"publisher {victim} is gone",
        [],
        lambda: ", ".join(name for name in successors if name in pool.names()),
        [Bound("publish", 6 + SLACK, "apply", f"the others go on; start of a process 6 + {SLACK}")],
        2,
    )


@fault("beat-kill", "kill the host of one beat", "beat", "standard soak", takes="beat")
def _beat(stack: Stack, rng: random.Random) -> Plan:
    return crash(stack, [rng.choice(stack.tier("beat"))], others_go_on())


@fault(
    "observers-kill",
    "kill Flower and Prometheus: nothing may notice",
    "flower prometheus",
    "standard soak",
    lasts="flower prometheus",
)
def _observers(stack: Stack, _rng: random.Random) -> Plan:
    nodes = [*stack.tier("flower"), *stack.tier("prometheus")]
    bounds = [
        Bound(stream, 3 + SLACK, "apply", f"no effect; 3 for a busy machine + {SLACK}")
        for stream in ("publish", "work")
    ]
    return kill(stack, nodes, bounds, 5)


@fault("unroutable", "take a queue's bindings away: its tasks must be refused or kept", "rabbit", "standard soak")
def _unroutable(stack: Stack, _rng: random.Random) -> Plan:
    queue, node = QUEUES[-1], stack.tier("rabbit")[0]
    before = stack.depth()["unrouted"]
    path = f"bindings/{stack.vhost}/e/tasks/q/{queue}"
    bindings = stack.management(path)  # its name's, and the one for what comes back from a delay

    def remove() -> None:
        with stack.web(node, "admin", "RABBITMQ_ADMIN_PASSWORD") as api:
            for binding in bindings:
                api.delete(f"{path}/{binding['properties_key']}").raise_for_status()

    def proof() -> str:
        more = stack.depth()["unrouted"] - before
        return f"{more} messages went to the queue of unrouted ones" if more > 0 else ""

    def add(key: str) -> str:
        exchange, name = (
            f'{{resource, <<"{stack.vhost}">>, {kind}}}' for kind in ('exchange, <<"tasks">>', f'queue, <<"{queue}">>')
        )
        return f'rabbit_binding:add({{binding, {exchange}, <<"{key}">>, {name}, []}}, <<"drill">>).'

    return Plan(
        [queue],
        remove,
        proof,
        [("ctl", node.name, "eval", add(binding["routing_key"])) for binding in bindings],
        lambda: "the bindings are back" if len(stack.management(path)) == len(bindings) else "",
        [Bound(stream, 3 + SLACK, "apply", f"the other queue goes on; 3 + {SLACK}") for stream in ("publish", "work")],
        3,
    )


@fault(
    "consumer-timeout", "freeze a worker host until the broker takes its tasks away", "rabbit worker", "standard soak"
)
def _consumer_timeout(stack: Stack, rng: random.Random) -> Plan:
    # a second is enough for the broker, which looks every few seconds; what a frozen worker holds is older then
    queue, name, broker = QUEUES[0], "drill-consumer-timeout", stack.tier("rabbit")[0]
    frozen = pause(stack, [rng.choice(stack.tier("worker"))], others_go_on(), 0)
    address = stack.node(frozen.targets[0]).address
    policy = next(p for p in stack.management(f"policies/{stack.vhost}") if p["name"] == "tasks")
    hurried = json.dumps(policy["definition"] | {"consumer-timeout": 1000})

    def apply() -> None:
        stack.ctl(broker, "set_policy", "-p", stack.vhost, "--priority", "100", name, f"^{queue}$", hurried)
        frozen.apply()

    def proof() -> str:
        left = _consumers(stack, queue, address)
        return "" if left else f"{frozen.proof()}; the broker has cancelled its consumers"

    def healed() -> str:
        names = [p["name"] for p in stack.management(f"policies/{stack.vhost}")]
        return "" if name in names else frozen.healed()

    drop = f'catch rabbit_policy:delete(<<"{stack.vhost}">>, <<"{name}">>, <<"drill">>).'
    undo = [*frozen.undo, ("ctl", broker.name, "eval", drop)]
    return Plan(frozen.targets, apply, proof, undo, healed, others_go_on(stack.settings.connect + 3), 0)


def _consumers(stack: Stack, queue: str, address: str) -> list[str]:
    """Return the channels of a host that consume from a queue and may be given messages."""
    found = stack.management(f"queues/{stack.vhost}/{queue}")
    channels = [(consumer["channel_details"]["name"], consumer["active"]) for consumer in found["consumer_details"]]
    return [name for name, active in channels if active and name.startswith(f"{address}:")]


@fault(
    "everything",
    "one node of each tier at once, by chance killed or frozen",
    "rabbit redis sentinel worker",
    "standard soak",
)
def _everything(stack: Stack, rng: random.Random) -> Plan:
    s: Settings = stack.settings
    tiers = ("rabbit", "redis", "sentinel", "worker", "beat")
    nodes = [rng.choice(stack.tier(tier)) for tier in tiers[:-1]]
    # what supervises a beat on the host of the worker is hit with it
    elsewhere = [node for node in stack.tier(tiers[-1]) if node.host != nodes[-1].host]
    nodes.append(rng.choice(elsewhere))
    frozen: list[Node] = [node for node in nodes if rng.random() < 0.3]
    dead = [node for node in nodes if node not in frozen]
    births = {node.name: stack.target.birth(node) for node in dead}

    def apply() -> None:
        for node in frozen:
            stack.target.pause(node)
        if dead:
            stack.target.crash(dead)

    def proof() -> str:
        found = [are(stack, frozen, "paused") if frozen else "", reborn(stack, births) if births else ""]
        return "; ".join(filter(None, found)) if bool(found[0]) == bool(frozen) and bool(found[1]) == bool(dead) else ""

    silent = broker.silent(s) + redis.failover(s)
    return Plan(
        [node.name for node in nodes],
        apply,
        proof,
        [("resume", node.name) for node in frozen],
        lambda: are(stack, nodes, "running"),
        [Bound(b.stream, 1.5 * b.seconds, b.since, f"1.5 x ({b.formula})") for b in silent],
        12,
    )

"""Faults of RabbitMQ nodes and of the network around them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drill.faults.base import (
    CLOSE,
    ELECTION,
    OPEN,
    SLACK,
    Plan,
    are,
    both_ways,
    crash,
    dropped,
    each,
    fault,
    from_peers,
    kill,
    partition,
    pause,
    undo,
)
from drill.faults.record import Bound
from drill.targets.stack import QUEUES

if TYPE_CHECKING:
    import random

    from drill.targets import Node
    from drill.targets.stack import Settings, Stack

AGAIN = 5.0  # seconds; the policy's pause before a failed delivery is repeated, and a free worker
BOOT = 30.0  # seconds; a broker with a full log on a busy machine


def seen_to_go(s: Settings) -> list[Bound]:
    """Return the bounds after a broker whose death closes its connections."""
    publish = ELECTION + s.connect / 3 + SLACK
    work = ELECTION + s.disconnected + SLACK
    return [
        Bound("publish", publish, "apply", f"election {ELECTION} + reconnect {s.connect / 3:.1f} + {SLACK}"),
        Bound("work", work, "apply", f"election {ELECTION} + disconnected consumers {s.disconnected:g} + {SLACK}"),
        Bound(
            "rerun", work + AGAIN, "apply", f"election {ELECTION} + disconnected {s.disconnected:g} + again {AGAIN:g}"
        ),
    ]


def silent(s: Settings) -> list[Bound]:
    """Return the bounds after a broker that answers no more, yet whose connections stay open."""
    election = 2 * s.poll + 1.2
    publish = max(s.attempt, election) + s.connect + SLACK
    work = max(2 * s.heartbeat + s.heartbeat / 3, election + s.disconnected) + s.connect + SLACK
    return [
        Bound("publish", publish, "apply", f"one attempt {s.attempt:g} + connect {s.connect:g} + {SLACK}"),
        Bound("work", work, "apply", f"heartbeat {s.heartbeat:g} x 2.3 + connect {s.connect:g} + {SLACK}"),
    ]


def after_majority(s: Settings) -> list[Bound]:
    """Return the bounds from the moment on at which a majority is started again."""
    total = BOOT + s.attempt + SLACK
    text = f"boot {BOOT:g} + one attempt {s.attempt:g} + {SLACK}"
    return [Bound("publish", total, "heal", text), Bound("work", total + s.disconnected, "heal", f"{text} + 5")]


def members(stack: Stack, rng: random.Random) -> tuple[Node, list[Node]]:
    """Return the leader of the default queue and the other brokers in random order."""
    leader = stack.leader(QUEUES[0])
    others = [node for node in stack.tier("rabbit") if node != leader]
    rng.shuffle(others)
    return leader, others


def serving(stack: Stack) -> Node:
    """Return the broker with the most clients: what happens between another one and its clients may hit nobody."""
    clients = Counter(str(connection["node"]).partition("@")[2] for connection in stack.management("connections"))
    return max(stack.tier("rabbit"), key=lambda node: clients[node.host])


@fault(
    "broker-leader-kill", "kill -9 of the broker that leads the queue", "rabbit", "smoke standard soak", takes="rabbit"
)
def _leader_kill(stack: Stack, rng: random.Random) -> Plan:
    leader, _ = members(stack, rng)
    return crash(stack, [leader], seen_to_go(stack.settings))


@fault(
    "broker-outage",
    "kill the broker that leads, start it after 20 s",
    "rabbit",
    "standard soak",
    lasts="rabbit",
)
def _outage(stack: Stack, rng: random.Random) -> Plan:
    leader, _ = members(stack, rng)
    return kill(stack, [leader], seen_to_go(stack.settings), 20)


@fault("broker-follower-kill", "kill -9 of a broker that follows", "rabbit", "standard soak", takes="rabbit")
def _follower_kill(stack: Stack, rng: random.Random) -> Plan:
    _, others = members(stack, rng)
    return crash(stack, others[:1], seen_to_go(stack.settings))


@fault(
    "broker-majority-kill",
    "kill two of three brokers, start them after 15 s",
    "rabbit",
    "standard",
    lasts="rabbit rabbit",
)
def _majority_kill(stack: Stack, rng: random.Random) -> Plan:
    leader, others = members(stack, rng)
    return kill(stack, [leader, others[0]], after_majority(stack.settings), 15, silent=True)


@fault("broker-all-kill", "kill -9 of all brokers at once", "rabbit", "standard soak", takes="rabbit rabbit rabbit")
def _all_kill(stack: Stack, _rng: random.Random) -> Plan:
    s = stack.settings
    total = 60.0
    bounds = [Bound(stream, total, "apply", "three boots at once 60") for stream in ("publish", "work")]
    return crash(stack, stack.tier("rabbit"), bounds, s.attempt)


@fault(
    "broker-leader-pause",
    "freeze the broker that leads for 15 s",
    "rabbit",
    "standard soak",
    lasts="rabbit",
)
def _leader_pause(stack: Stack, rng: random.Random) -> Plan:
    leader, _ = members(stack, rng)
    return pause(stack, [leader], silent(stack.settings), 15)


@fault(
    "broker-hang-kill", "freeze the broker that leads for 4 s, then kill -9", "rabbit", "standard soak", takes="rabbit"
)
def _hang_kill(stack: Stack, rng: random.Random) -> Plan:
    leader, _ = members(stack, rng)
    plan = crash(stack, [leader], silent(stack.settings))
    end = plan.apply

    def apply() -> None:
        stack.target.pause(leader)
        time.sleep(4)
        end()
        undo(stack, ("resume", leader.name))  # a frozen process dies when it thaws

    plan.apply = apply
    plan.undo = [("resume", leader.name)]
    return plan


@fault(
    "broker-flutter",
    "freeze the broker that leads five times for 0.2 to 2 s",
    "rabbit",
    "standard soak",
    takes="rabbit",
)
def _flutter(stack: Stack, rng: random.Random) -> Plan:
    leader, _ = members(stack, rng)
    lengths = [rng.uniform(0.2, 2) for _ in range(5)]
    seen: list[str] = []

    def apply() -> None:
        for length in lengths:
            stack.target.pause(leader)
            seen.append(are(stack, [leader], "paused"))
            time.sleep(length)
            stack.target.resume(leader)
            time.sleep(0.5)

    s = stack.settings
    total = 2 + 2 * s.poll + 1.2 + s.attempt
    bounds = [
        Bound(stream, total, "apply", "a pause of 2 + an election + one attempt") for stream in ("publish", "work")
    ]
    return Plan(
        [leader.name],
        apply,
        lambda: f"{leader.name} was frozen {len(seen)} times" if len(seen) == 5 and all(seen) else "",
        [("resume", leader.name)],
        lambda: are(stack, [leader], "running"),
        bounds,
        1,
    )


@fault(
    "broker-partition",
    "cut the leader off from the other brokers; clients reach all",
    "rabbit",
    "standard soak",
    lasts="rabbit",
)
def _partition(stack: Stack, rng: random.Random) -> Plan:
    leader, others = members(stack, rng)
    return partition(stack, {leader.name: both_ways(leader, *others)}, silent(stack.settings), 15)


@fault(
    "broker-one-way",
    "the leader hears no other broker, they hear it",
    "rabbit",
    "standard soak",
    lasts="rabbit",
)
def _one_way(stack: Stack, rng: random.Random) -> Plan:
    leader, others = members(stack, rng)
    return partition(stack, {leader.name: from_peers(leader, *others)}, silent(stack.settings), 15)


@fault(
    "broker-bridge",
    "two brokers cannot talk, the third talks to both",
    "rabbit",
    "standard soak",
    lasts="rabbit",
)
def _bridge(stack: Stack, rng: random.Random) -> Plan:
    leader, others = members(stack, rng)
    return partition(stack, {leader.name: both_ways(leader, others[0])}, silent(stack.settings), 15)


@fault(
    "broker-clients-cut",
    "drop all client traffic of one broker",
    "rabbit",
    "smoke standard soak",
    lasts="rabbit",
)
def _clients_cut(stack: Stack, _rng: random.Random) -> Plan:
    rules = [f"-p tcp --{side} {stack.broker_port} -j DROP" for side in ("dport", "sport")]
    return partition(stack, {serving(stack).name: rules}, silent(stack.settings), 10)


@fault("broker-reset", "reset all client connections of one broker", "rabbit", "standard soak", lasts="rabbit")
def _reset(stack: Stack, _rng: random.Random) -> Plan:
    rule = f"-p tcp --dport {stack.broker_port} -j REJECT --reject-with tcp-reset"
    return partition(stack, {serving(stack).name: [rule]}, seen_to_go(stack.settings), 3)


@fault(
    "broker-forget",
    "a firewall forgets the clients of all brokers: old connections are dead, new ones pass",
    "rabbit",
    "standard soak",
    lasts="rabbit",
)
def _forget(stack: Stack, _rng: random.Random) -> Plan:
    nodes, port = stack.tier("rabbit"), stack.broker_port
    established = (
        f'awk \'$4 == "01" && $2 ~ /:{port:04X}$/ {{ sub(/.*:/, "", $3); print $3 }}\' /proc/net/tcp /proc/net/tcp6'
    )
    drop = "\n".join(
        f"iptables -A DRILL -p tcp --{mine} {port} --{theirs} $((0x$client)) -j DROP"
        for mine, theirs in (("sport", "dport"), ("dport", "sport"))
    )
    script = f"{OPEN}{CLOSE}\nfor client in $({established}); do\n{drop}\ndone"
    heartbeats = silent(stack.settings)
    return replace(
        partition(stack, {node.name: [] for node in nodes}, heartbeats, heartbeats[1].seconds),
        apply=lambda: each(lambda node: stack.target.network(node, script), nodes),
        proof=lambda: "; ".join(filter(None, (dropped(stack, node) for node in nodes))),
    )


def _alarm(stack: Stack, rng: random.Random, kind: str, command: list[str], back: list[str]) -> Plan:
    node = rng.choice(stack.tier("rabbit"))
    s = stack.settings

    def alarms() -> str:
        return ", ".join(alarm for alarm in stack.alarms() if alarm.endswith(kind))

    resume = Bound("publish", 5.0 + SLACK, "heal", f"unblocked at once, last attempt's pause + {SLACK}")
    drain = Bound("work", 5.0 + SLACK, "heal", "workers were never blocked")
    return Plan(
        [node.name],
        lambda: stack.ctl(node, *command),
        alarms,
        [("ctl", node.name, *back)],
        lambda: "" if alarms() else "no alarm left",
        [resume, drain],
        s.attempt + 5,
    )


@fault("disk-alarm", "raise a disk alarm: publishers are blocked, workers drain", "rabbit", "smoke standard soak")
def _disk_alarm(stack: Stack, rng: random.Random) -> Plan:
    limit = stack.management("nodes")[0]["disk_free_limit"]
    return _alarm(stack, rng, "disk_free", ["set_disk_free_limit", str(10**14)], ["set_disk_free_limit", str(limit)])


@fault("disk-full", "fill the disk of the broker that leads to its last byte, free it, restart it", "rabbit holder")
def _disk_full(stack: Stack, rng: random.Random) -> Plan:
    node, holder = members(stack, rng)[0], stack.tier("holder")[0]
    ballast = f"/held/{node.name}/ballast"

    def room() -> int:
        return int(stack.target.run(holder, "df", "-Pk", f"/held/{node.name}").splitlines()[1].split()[3])

    def refuses() -> bool:
        with stack.web(node, "monitor", "RABBITMQ_MONITOR_PASSWORD", timeout=3) as api:
            return api.get("whoami").status_code == 401

    return Plan(
        [node.name],
        lambda: stack.target.run(holder, "sh", "-c", f"cat /dev/zero >{ballast} 2>/dev/null || true"),
        lambda: f"{node.name} has no byte left and refuses every login" if not room() and refuses() else "",
        # space alone does not heal it: it stays without its log until it starts again
        [("run", holder.name, "rm", "-f", ballast), *(("ctl", node.name, f"{verb}_app") for verb in ("stop", "start"))],
        lambda: f"{node.name} has {room() >> 10} MiB free and knows its users" if room() and not refuses() else "",
        [replace(bound, since="heal") for bound in silent(stack.settings)],  # its disk alarm blocks publishers
        20,
    )


@fault("memory-alarm", "raise a memory alarm", "rabbit", "standard soak")
def _memory_alarm(stack: Stack, rng: random.Random) -> Plan:
    limit = stack.management("nodes")[0]["mem_limit"]
    command = "set_vm_memory_high_watermark"
    return _alarm(stack, rng, "mem", [command, "0.0001"], [command, "absolute", str(limit)])


@fault("broker-rolling-restart", "drain and restart the brokers one after the other", "rabbit", "standard")
def _rolling(stack: Stack, _rng: random.Random) -> Plan:
    nodes = stack.tier("rabbit")
    births = {node.name: stack.target.birth(node) for node in nodes}

    def restart(node: Node) -> None:
        stack.target.run(node, "rabbitmq-upgrade", "--quiet", "await_online_quorum_plus_one", "--timeout", "60")
        stack.target.run(node, "rabbitmq-upgrade", "--quiet", "drain")
        stack.target.stop(node)
        stack.target.start(node)
        stack.wait(lambda: _serves(stack, node), 90)

    return Plan(
        list(births),
        lambda: each(restart, nodes),
        lambda: (
            f"all of {', '.join(births)} were restarted"
            if all(stack.target.birth(stack.node(name)) != born for name, born in births.items())
            else ""
        ),
        [("start", name) for name in births],
        lambda: are(stack, nodes, "running"),
        seen_to_go(stack.settings),
        1,
    )


def _serves(stack: Stack, node: Node) -> bool:
    found: list[dict[str, Any]] = stack.management("nodes", node)
    return all(entry["running"] and not entry.get("being_drained") for entry in found)


@fault("broker-replace", "lose the leading broker with its disk, let a new one take its place", "rabbit", "standard")
def _replace(stack: Stack, rng: random.Random) -> Plan:
    lost, others = members(stack, rng)
    helper = others[0]
    wipe = "rm -rf /var/lib/rabbitmq/mnesia /var/lib/rabbitmq/.started"

    def apply() -> None:
        stack.target.run(lost, "sh", "-c", wipe)
        stack.target.kill([lost])
        stack.wait(lambda: stack.ctl(helper, "forget_cluster_node", f"rabbit@{lost.host}") or True, 30)

    return Plan(
        [lost.name],
        apply,
        lambda: "" if f"rabbit@{lost.host}" in _known(stack, helper) else f"{lost.name} is no member any more",
        [("start", lost.name)],
        lambda: f"{lost.name} is a member again" if f"rabbit@{lost.host}" in _known(stack, helper) else "",
        seen_to_go(stack.settings),
        3,
    )


def _known(stack: Stack, node: Node) -> list[str]:
    return [entry["name"] for entry in stack.management("nodes", node)]

"""The drill's own test: switch off one safeguard at a time; a drill that stays green then is blind.

Each mutant runs in a virtual host of its own on the running cluster, with workers that the drill starts beside the
stack's: the stack's own queues, policies and workers keep their safeguards.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drill.ledger import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

MIX = {"short": 60, "effect": 20, "critical": 10, "long": 10}
LONG = {"long": 70, "short": 30}
LAYER = frozenset({"publisher", "consumer", "request", "audit"})

type Topology = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Spare:
    """Servers beside those of the stack, for what no server of the stack may suffer.

    Attributes:
        tiers: which ones.
        edits: regular expressions and what takes the place of each match in their files; each must match somewhere.
        disk: size of a disk in memory for each of them (``256m``); empty for volumes of the usual kind.
        images: size of a disk that can lose power for each that keeps data (``4g``); empty for none.
        no_fsync: tiers in which ``fsync`` does nothing.
    """

    tiers: tuple[str, ...]
    edits: tuple[tuple[str, str], ...] = ()
    disk: str = ""
    images: str = ""
    no_fsync: tuple[str, ...] = ()


def _powered(no_fsync: tuple[str, ...] = (), edits: tuple[tuple[str, str], ...] = ()) -> Spare:
    """Return servers whose disks can lose power; smaller ones would raise RabbitMQ's disk alarm."""
    return Spare(("rabbit", "redis", "sentinel", "postgres"), edits, images="4g", no_fsync=no_fsync)


def _redis(*edits: tuple[str, str]) -> Spare:
    return Spare(("redis", "sentinel"), edits)


@dataclass(frozen=True)
class Mutant:
    """One way to set up the application and the broker.

    Attributes:
        removes: the safeguard that is switched off, in words.
        faults: what must show it.
        mix: of the load.
        rate: tasks per second.
        layer: parts of Holdfast that are installed.
        settings: Celery settings that are changed.
        topology: changes the definitions of the virtual host.
        spare: servers that mutant and control have for themselves; the control's are not edited.
        ledger: class that the publishers write with.
        calm: seconds of load before and after each fault.
        stock: Celery's own settings.
        redis_broker: Redis carries the tasks.
        quorum: queues that stock Celery makes are quorum queues.
        own: the settings are those of somebody's application, with the whole layer installed as it would do it.
        audit: every task is audited, and the audit must count what is lost; the control's as well.
    """

    removes: str
    faults: tuple[str, ...] = ()
    mix: dict[str, int] = field(default_factory=lambda: dict(MIX))
    rate: float = 20.0
    layer: frozenset[str] = LAYER
    settings: dict[str, Any] = field(default_factory=dict)
    topology: Callable[[Topology], None] | None = None
    spare: Spare | None = None
    ledger: str = "drill.ledger:Writer"
    calm: float = 4.0
    stock: bool = False
    redis_broker: bool = False
    quorum: bool = False
    own: bool = False
    audit: bool = False


def _policy(name: str, **changes: Any) -> Callable[[Topology], None]:
    """Return a change of a policy; a value of None takes the key out."""

    def change(topology: Topology) -> None:
        for policy in topology["policies"]:
            if policy["name"] == name:
                merged = policy["definition"] | {key.replace("_", "-"): value for key, value in changes.items()}
                policy["definition"] = {key: value for key, value in merged.items() if value is not None}

    return change


def _without_policy(name: str) -> Callable[[Topology], None]:
    def change(topology: Topology) -> None:
        topology["policies"] = [policy for policy in topology["policies"] if policy["name"] != name]

    return change


def _classic(topology: Topology) -> None:
    """Make the task queues live on one node."""
    for queue in topology["queues"]:
        if queue["name"] in {"default", "critical"}:
            queue["arguments"] = {"x-queue-type": "classic"}
    for policy in topology["policies"]:
        if policy["name"] == "tasks":
            policy["apply-to"] = "queues"
            policy["definition"] = {"dead-letter-exchange": "dead"}


def _refusing(topology: Topology) -> None:
    """Let the queue of critical tasks refuse all, and drop what has no way."""
    _without_policy("unrouted")(topology)
    topology["policies"].append(
        {
            "name": "refusing",
            "pattern": "^critical$",
            "apply-to": "quorum_queues",
            "priority": 9,
            "definition": {"max-length": 0, "overflow": "reject-publish"},
        }
    )


def _bare(topology: Topology) -> None:
    """Leave what stock Celery makes itself to stock Celery."""
    topology["policies"] = [policy for policy in topology["policies"] if policy["name"] == "kept"]
    for kind in ("queues", "exchanges"):
        topology[kind] = [entry for entry in topology[kind] if entry["name"] in {"dead", "unrouted"}]
    topology["bindings"] = [entry for entry in topology["bindings"] if entry["source"] in {"dead", "unrouted"}]


_STOCK_PUBLISH = LAYER - {"publisher"}
_NO_ROUTER = {"task_routes": None}
_CONFIRM = {"confirm_publish": True}
# What an operator does: Redis refuses a file that ends in zeros, which ext4 leaves where no fsync was asked for.
_LOG = "/data/appendonlydir/appendonly.aof.manifest"
_REPAIR = (
    r'^exec docker-entrypoint\.sh "\$current"$',
    rf"[ ! -e {_LOG} ] || yes | redis-check-aof --fix {_LOG} || true\n\g<0>",
)
_STOCK_STORE = {"result_backend": "stock", "result_backend_always_retry": True}

MUTANTS = {
    "confirms": Mutant(
        "the publisher waits for no confirm",
        ("broker-hang-kill", "broker-hang-kill"),
        layer=_STOCK_PUBLISH,
        rate=30,
        settings={**_NO_ROUTER, "broker_transport_options": {"confirm_publish": False}},
    ),
    "quorum": Mutant("the queues live on one node", ("broker-replace",), LONG, topology=_classic),
    "late-ack": Mutant(
        "a task is acknowledged before it runs", ("worker-host-kill",), LONG, settings={"task_acks_late": False}
    ),
    "mandatory": Mutant(
        "a message without a way is dropped",
        ("unroutable",),
        layer=_STOCK_PUBLISH,
        settings={**_NO_ROUTER, "broker_transport_options": _CONFIRM},
        topology=_without_policy("unrouted"),
    ),
    "worker-lost": Mutant(
        "the task of a killed child counts as failed",
        ("worker-child-kill",) * 4,
        LONG,
        settings={"task_reject_on_worker_lost": False},
        calm=2,
    ),
    "dead-letter": Mutant(
        "there is no dead-letter exchange",
        (),
        {"short": 80, "poison": 20},
        topology=_policy("tasks", dead_letter_exchange=None, dead_letter_strategy=None),
    ),
    "reject-publish": Mutant(
        "a full queue drops its oldest message, at most once into the dead-letter queue",
        (),
        LONG,
        rate=30,
        topology=_policy("tasks", overflow="drop-head", dead_letter_strategy="at-most-once", max_length=20),
    ),
    "drop-head": Mutant(
        "a full queue drops its oldest message",
        (),
        LONG,
        rate=30,
        topology=_policy(
            "tasks", overflow="drop-head", max_length=20, dead_letter_exchange=None, dead_letter_strategy=None
        ),
        audit=True,
    ),
    "tag-matching": Mutant(
        "any confirm counts as the message's own",
        (),
        {"short": 50, "critical": 25, "nowhere": 25},
        layer=_STOCK_PUBLISH,
        settings={"broker_transport_options": _CONFIRM, "task_publish_retry": False},
        topology=_refusing,
    ),
    "noreplicas": Mutant(
        "a refused write of a result is not repeated", ("redis-replicas-kill",), settings=_STOCK_STORE
    ),
    "append-only": Mutant(
        "Redis writes nothing to its disk",
        ("redis-all-kill",),
        settings=_STOCK_STORE,
        spare=_redis(("^appendonly yes", "appendonly no")),
    ),
    "min-replicas": Mutant(
        "a Redis primary without replicas takes writes",
        ("redis-primary-isolate",),
        settings=_STOCK_STORE,
        spare=_redis(("^min-replicas-to-write 1", "min-replicas-to-write 0")),
    ),
    "broker-fsync": Mutant(
        "fsync does nothing in the brokers, and the power fails",
        ("power-all",),
        LONG,
        rate=30,
        spare=_powered(("rabbit",)),
    ),
    "append-fsync": Mutant(
        "Redis flushes once a second, and the power fails",
        ("power-all",),
        rate=30,
        settings=_STOCK_STORE,
        spare=_powered(edits=(("^appendfsync always", "appendfsync everysec"), _REPAIR)),
    ),
    "channel-errors": Mutant(
        "a channel error ends the worker, control queues are exclusive",
        ("broker-forget",),
        layer=LAYER - {"consumer"},
        settings={"broker_channel_error_retry": False, "control_queue_exclusive": True, "control_queue_durable": False},
    ),
    "disconnected-timeout": Mutant(
        "messages of a consumer whose broker is gone wait for a minute",
        ("broker-outage",) * 3,
        LONG,
        topology=_policy("tasks", consumer_disconnected_timeout=60_000),
    ),
    "ledger-buffer": Mutant(
        "the ledger keeps records in memory", ("publisher-kill",), ledger="drill.selftest.mutants:BufferedWriter"
    ),
    "ledger-drop": Mutant("the ledger drops one record", (), ledger="drill.selftest.mutants:DroppingWriter"),
}
CONTROL = Mutant("nothing: all safeguards are on")
STOCK = Mutant(
    "Celery's own settings, and nothing of Holdfast", stock=True, layer=frozenset(), topology=_bare, calm=4.0
)
REDIS_BROKER = Mutant("Redis carries the tasks: all of Holdfast that works there", redis_broker=True)
SMALL_DISK = Mutant(
    "nothing: all safeguards are on, and the brokers' disks can be filled",
    faults=("disk-full",),
    spare=Spare(("rabbit",), ((r"^disk_free_limit\.absolute = .*", "disk_free_limit.absolute = 20MB"),), disk="300m"),
)
POWER = Mutant(
    "nothing: all safeguards are on, and the servers' disks can lose power",
    mix={"short": 65, "effect": 20, "critical": 14, "long": 1},  # with a long one in ten, six processes run 22 a second
    spare=_powered(),
)
SETUPS = {"stock": STOCK, "redis-broker": REDIS_BROKER, "control": CONTROL}


class DroppingWriter(Writer):
    """Numbers its fiftieth record and does not write it: the shortest run writes twice as many."""

    def put(self, line: bytes) -> None:
        if self.count != 50:
            super().put(line)


class BufferedWriter(Writer):
    """Collects a hundred lines before it writes, as a buffered file would."""

    def __init__(self, *arguments: Any) -> None:
        self._lines: list[bytes] = []
        self._buffer_lock = threading.Lock()
        super().__init__(*arguments)

    def put(self, line: bytes) -> None:
        with self._buffer_lock:
            self._lines.append(line)
            if len(self._lines) >= 100:
                self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            super().put(line)

    def close(self) -> None:
        """Write what is left."""
        self.append("close")
        self._flush()

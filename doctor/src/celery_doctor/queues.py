"""Rules on the queues that an application describes, and on those that it only names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_doctor.consume import names
from celery_doctor.rules import Severity
from celery_doctor.rules import settings_rules as rule

if TYPE_CHECKING:
    from celery_doctor.subject import Subject


def _described(subject: Subject) -> dict[str, Any]:
    """Return what is described, in the settings or in a route itself, by name."""
    own = {route.queue: route.described for route in subject.routes if route.described is not None}
    return {**own, **subject.queues}


def _made(subject: Subject) -> dict[str, str]:
    """Return the queues that a publish or worker would make, by name, with the place that names each."""
    return {name: where for name, where in subject.wanted_queues.items() if name not in _described(subject)}


@rule(
    "HF110-missing-queues-made",
    Severity.WARNING,
    loss="a misspelt queue name creates a queue that no worker reads: its tasks never run",
    fix="task_create_missing_queues = False, with every queue that a route or task names in task_queues",
)
def missing_queues_made(subject: Subject) -> str | None:
    return "task_create_missing_queues is on" if subject.get("task_create_missing_queues") else None


@rule(
    "HF116-queue-not-described",
    Severity.WARNING,
    loss="delay() raises QueueNotFound, and beat logs the tick and forgets it",
    fix="describe the queue in task_queues: holdfast.routing.queues((...)) or kombu.Queue(...)",
)
def queue_not_described(subject: Subject) -> list[str]:
    if subject.get("task_create_missing_queues"):
        return []
    return [f"queue {name!r} is not in task_queues ({where})" for name, where in sorted(_made(subject).items())]


@rule(
    "HF209-quorum-queues",
    Severity.FATAL,
    loss="a classic queue lives on one node: unreachable while that is down, lost with its disk",
    fix='Queue(..., queue_arguments={"x-queue-type": "quorum"}), or holdfast.routing.queues(...); for queues that only'
    ' routes name task_create_missing_queue_type = "quorum". A queue that is there keeps its type: give the new one'
    " another name; holdfast migrate-queues moves the tasks",
)
def quorum_queues(subject: Subject) -> list[str]:
    if not subject.amqp:
        return []
    classic = [name for name, queue in _described(subject).items() if _kind(queue) not in ("quorum", "stream")]
    found = [f"not quorum queues: {names(classic)}"] if classic else []
    if subject.get("task_create_missing_queues") and subject.get("task_create_missing_queue_type") != "quorum":
        made = [f"{name} ({where})" for name, where in _made(subject).items()]
        found += [f"made as classic queues on first use: {names(made)}"] if made else []
    return found


def _kind(queue: Any) -> str:
    return str((queue.queue_arguments or {}).get("x-queue-type", "classic"))


@rule(
    "HF210-direct-exchange",
    Severity.FATAL,
    loss="a countdown or delayed retry waits in a worker's memory: it blocks the worker and counts against the limit",
    fix='task_default_exchange_type = "topic" and a topic exchange for every queue: holdfast.routing.queues(...)',
    see="celery#9960",
)
def direct_exchange(subject: Subject) -> str | None:
    direct = [name for name, queue in _described(subject).items() if queue.exchange and queue.exchange.type == "direct"]
    return f"on a direct exchange: {names(direct)}" if subject.amqp and direct else None


@rule(
    "HF211-delay-queue-type",
    Severity.FATAL,
    loss="delayed tasks wait in classic queues: lost with one node, and dropped when their target is missing",
    sets={"broker_native_delayed_delivery_queue_type": '"quorum"'},
)
def delay_queue_type(subject: Subject) -> str | None:
    kind = subject.get("broker_native_delayed_delivery_queue_type", "")  # before Celery 5.5 there are no delay queues
    return f"the delay queues are {kind}" if subject.amqp and kind not in ("", "quorum") else None


@rule(
    "HF224-global-prefetch",
    Severity.WARNING,
    loss="the worker asks for a prefetch per channel, which RabbitMQ 4.3 refuses: nothing is consumed",
    sets={"worker_detect_quorum_queues": "True"},
    see="celery#9512",
)
def global_prefetch(subject: Subject) -> str | None:
    off = subject.amqp and not subject.get("worker_detect_quorum_queues", True)
    return "worker_detect_quorum_queues is off" if off else None


TTL = ("x-message-ttl", "x-expires")


@rule(
    "HF225-queue-expires",
    Severity.FATAL,
    loss="tasks that wait longer than x-message-ttl never run; x-expires deletes the queue with its tasks",
    fix="remove the argument from the queue; let tasks check their own age",
)
def queue_expires(subject: Subject) -> list[str]:
    found = []
    for name, queue in sorted(_described(subject).items()):
        given = {**{f"x-{key.replace('_', '-')}": getattr(queue, key, None) for key in ("message_ttl", "expires")},
                 **(queue.queue_arguments or {})}  # fmt: skip
        found += [f"queue {name} has {key} {given[key]}" for key in TTL if given.get(key) is not None]
    return found

"""Where the dead letters of a queue go: follows exchanges and bindings as RabbitMQ would."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_doctor.management import Cluster


class UnknownWayError(Exception):
    """An exchange of a type whose routing only the broker knows (headers, plugins)."""


def settings_of(queue: dict[str, Any]) -> dict[str, Any]:
    """Return what holds for a queue: its policies, then its own arguments."""
    own = {key[2:]: value for key, value in queue["arguments"].items() if key.startswith("x-")}
    return {**(queue.get("effective_policy_definition") or {}), **own}


def complaints(cluster: Cluster, queue: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong with the dead-letter exchange of a queue; nothing without one, which is HF813.

    Args:
        cluster: where the queue is.
        queue: as the management API describes it.
    """
    name = queue["name"]
    exchange = _exchange(queue)
    if exchange is None:
        return
    if exchange and cluster.exchange(exchange) is None:
        yield f"queue {name}: its dead-letter-exchange {exchange} is not there"
        return
    try:
        targets = _targets(cluster, queue)
        back = [one for one in sorted(targets - {name}) if name in _onward(cluster, one)]
    except UnknownWayError:
        return
    if not targets:
        yield f"queue {name}: no queue takes its dead letters from {exchange or 'the default exchange'}"
    elif name in targets:
        yield f"queue {name}: its dead letters come back to it from {exchange or 'the default exchange'}"
    elif back:
        yield f"queue {name}: its dead letters come back to it through {back[0]}"


def _exchange(queue: dict[str, Any]) -> str | None:
    found = settings_of(queue).get("dead-letter-exchange")
    return None if found is None else str(found)


def _targets(cluster: Cluster, queue: dict[str, Any]) -> set[str]:
    """Return the queues that take the dead letters of a queue."""
    exchange = _exchange(queue)
    if exchange is None:
        return set()
    described = cluster.subject.queues.get(queue["name"])
    key = settings_of(queue).get("dead-letter-routing-key") or getattr(described, "routing_key", None) or queue["name"]
    return _routed(cluster, exchange, str(key), set())


def _onward(cluster: Cluster, name: str) -> set[str]:
    queue = cluster.every_queue.get(name)
    return _targets(cluster, queue) if queue else set()


def _routed(cluster: Cluster, exchange: str, key: str, seen: set[str]) -> set[str]:
    """Return the queues that a message reaches from an exchange."""
    if not exchange:
        return {key} & cluster.every_queue.keys()
    found = None if exchange in seen else cluster.exchange(exchange)
    if not found:
        return set()
    seen = seen | {exchange}
    reached: set[str] = set()
    for binding in cluster.bindings(exchange):
        if _matches(found["type"], binding["routing_key"], key):
            target = binding["destination"]
            reached |= {target} if binding["destination_type"] == "queue" else _routed(cluster, target, key, seen)
    alternate = cluster.alternate(found)
    return reached or (_routed(cluster, alternate, key, seen) if alternate else set())


def _matches(kind: str, pattern: str, key: str) -> bool:
    if kind == "fanout":
        return True
    if kind == "direct":
        return pattern == key
    if kind == "topic":
        words = [r"[^.]+" if word == "*" else re.escape(word) for word in pattern.split(".")]
        text = (
            r"\.".join(words).replace(r"\.\#", r"(?:\.[^.]+)*").replace(r"\#\.", r"(?:[^.]+\.)*").replace(r"\#", ".*")
        )
        return re.fullmatch(text, key) is not None
    raise UnknownWayError(kind)

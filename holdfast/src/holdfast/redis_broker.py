"""Redis behind Sentinel as the broker; docs/explanation/redis-broker.md lists the losses that no setting removes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu import Exchange, Queue

from holdfast import routing

if TYPE_CHECKING:
    from collections.abc import Iterable


def transport_options(sentinel: dict[str, Any], time_limit: int) -> dict[str, Any]:
    """Return ``broker_transport_options`` for kombu's Sentinel transport; what only RabbitMQ knows has no place here.

    Args:
        sentinel: ``master_name``, ``min_other_sentinels`` and ``sentinel_kwargs``, the same as for the results.
        time_limit: hard time limit of the longest task in seconds.
    """
    return {
        **sentinel,
        "visibility_timeout": time_limit + 300,  # a running task must not be handed out again: hard limit plus slack
        "unacked_restore_interval": 10,  # seconds between looks for messages of dead workers
        "unacked_restore_throttle": 1,  # look at each interval; the default of 10 skips nine of ten
        "socket_timeout": 15,  # by default a publish to a half-open socket hangs for ever; above BRPOP's 10 s
        "socket_connect_timeout": 2,  # a dead address must not eat the failover time
        "socket_keepalive": True,  # the kernel finds a dead peer on an idle connection
        "health_check_interval": 25,  # a BRPOP that stays silent is reconnected (celery#10205)
        "retry_on_timeout": True,  # one reconnect before the publish policy counts a failure
    }


def queues(names: Iterable[str]) -> list[Queue]:
    """Describe the queues ``names``; here clients do declare, because kombu keeps the bindings as Redis keys."""
    exchange = Exchange(routing.EXCHANGE, type="topic", durable=True)
    return [Queue(name, exchange, routing_key=name) for name in names]

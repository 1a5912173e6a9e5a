"""The exchanges and queues in which a delayed message waits, for an application whose topology is its own.

Celery's workers declare them when they start; a countdown that is published before the first of them has started would
be refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kombu.transport.native_delayed_delivery import (
    MAX_LEVEL,
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery
    from kombu import Queue

EXCHANGE = level_name(MAX_LEVEL)
"""Where a delayed message enters."""
ANY_KEY = EXCHANGE, ""
"""Its place in a topology by exchange and routing key: the key holds the delay, and there are very many."""


def entities(app: Celery) -> list[Any]:
    """Return what to declare for a delayed message, nothing when the queues of an application are provisioned.

    Args:
        app: whose queues the message may go to.
    """
    described: Any = app.amqp.queues.values()
    queues = [queue for queue in described if queue.exchange and not queue.no_declare]
    kind = app.conf.broker_native_delayed_delivery_queue_type
    return [*queues, Delays(queues, kind)] if queues else []


@dataclass(frozen=True)
class Delays:
    """All levels of the delay, declared like an exchange or queue of kombu.

    Attributes:
        queues: where messages go after their delay.
        kind: ``broker_native_delayed_delivery_queue_type``.
        channel: where to declare.
    """

    queues: Sequence[Queue]
    kind: str
    channel: Any = None

    def __call__(self, channel: Any) -> Delays:
        """Return the same for a channel."""
        return Delays(self.queues, self.kind, channel)

    def declare(self) -> None:
        """Declare every level, and bind the queues behind the last one."""
        connection = self.channel.connection
        declare_native_delayed_delivery_exchanges_and_queues(connection, self.kind)
        for queue in self.queues:
            bind_queue_to_native_delayed_delivery_exchange(connection, queue)

"""Where a task goes: the exchange, its queues and the router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kombu import Exchange, Queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EXCHANGE = "tasks"
EXPIRED = "expired"  # the queue of the notices of holdfast.notices


def queues(names: Iterable[str]) -> list[Queue]:
    """Describe the quorum queues ``names``, each bound to the topic exchange by its own name.

    Nothing is declared by clients: the topology belongs to the broker's definitions, and a declaration on a node
    without majority fails with 541, which neither retries nor fails over. The queue type is stated because Celery
    decides by it whether a countdown waits in the broker or in a worker's memory.
    """
    exchange = Exchange(EXCHANGE, type="topic", durable=True, no_declare=True)
    return [
        Queue(name, exchange, routing_key=name, queue_arguments={"x-queue-type": "quorum"}, no_declare=True)
        for name in names
    ]


@dataclass(frozen=True)
class Router:
    """The one entry of ``task_routes``; ``mandatory`` and deadlines are the publisher's business.

    A plain ``{"*": {"queue": ...}}`` would send the retry of a task to another queue than the one it came from, and
    ``{"*": {"routing_key": ...}}``, which Celery's page on quorum queues prints, turns every delayed retry into a
    rejected message (celery#9685). So a message that already names its queue or exchange keeps it.
    """

    ignores_arguments: ClassVar[bool] = True  # lets publish_many build the messages of one task by template
    default_queue: str

    def __call__(
        self,
        _name: str,
        _args: object,
        _kwargs: object,
        options: Mapping[str, Any],
        **_: object,
    ) -> dict[str, Any]:
        """Return the options to add to a publish.

        Args:
            options: what the caller chose; Celery has looked up a chosen queue already. The other arguments of a
                Celery router (the task, its name and arguments) do not matter here.
        """
        if options.get("queue"):
            return {}
        if options.get("exchange"):  # a retry: it carries the exchange and key that it arrived with
            return {"exchange_type": "topic"}
        return {"queue": self.default_queue}

"""How the relay's messages reach the broker: all at once, and what became of each."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from kombu.exceptions import OperationalError

from holdfast.audit import marks, publishers
from holdfast.published import now
from holdfast.publisher import Policy, Publisher, Unreachable
from holdfast.results import transient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from holdfast.audit.publishers import Acknowledged
    from holdfast.publisher import Message

    # publishes messages and returns for each one None when the broker has it, else why not
    Send: TypeAlias = Callable[[Sequence[Message]], Sequence[Exception | None]]

_index = attrgetter("index")


def sender(app: Celery, deadline: float | None = None) -> Send:
    """Return the way to the broker that an app writes to.

    It goes past the app's own publisher, whose fallback may be the outbox: a row would never come to rest.

    Args:
        app: the Celery app.
        deadline: seconds that a message may take on AMQP; None for ``holdfast_publish_deadline``.
    """
    connection = app.connection_for_write()
    if connection.transport.driver_type == "amqp":
        publisher = Publisher(connection, Policy.from_settings(app.conf))
        audit = publisher.audit = publishers.notes(app)

        def send(messages: Sequence[Message]) -> list[Exception | None]:
            stamped = [marked(message, audit) for message in messages]
            outcomes = publisher.publish_all(stamped, deadline=deadline)
            return [outcome.error for outcome in sorted(outcomes, key=_index)]

        return send
    return _Kombu(app)


def marked(message: Message, audit: Acknowledged | None) -> Message:
    """Return a message as it is published now: when it was recorded, it may have belonged to another sample.

    Args:
        message: from the outbox.
        audit: where its acknowledgement is noted; None where nothing is audited.
    """
    at = audit.stamp(str(message.task_id)) if audit else now()
    return replace(message, headers=message.headers | {marks.AUDITED_AT: at})


class _Kombu:
    """Redis and the other virtual transports: no confirms, what the server has answered is there."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._declared = False

    def __call__(self, messages: Sequence[Message]) -> list[Exception | None]:
        with self._app.producer_or_acquire() as producer:
            return [self._outcome(producer, message) for message in messages]

    def _outcome(self, producer: Any, message: Message) -> Exception | None:
        connection = producer.connection
        try:
            connection.ensure(producer, self._publish, max_retries=1)(producer, message)
        except Exception as error:  # noqa: BLE001 - of this message alone; the others go on
            passing = isinstance(error, (OperationalError, *connection.recoverable_connection_errors))
            return Unreachable(str(error)) if passing or transient(error) else error
        return None

    def _publish(self, producer: Any, message: Message) -> None:
        if not self._declared:  # these transports drop a message whose queue nobody has declared yet
            for queue in self._app.amqp.queues.values():
                queue(producer.channel).declare()
            self._declared = True
        properties = dict(message.properties)
        expiration = properties.pop("expiration", None)
        producer.publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=message.headers,
            expiration=None if expiration is None else float(expiration) / 1000,
            **properties,
        )

"""What a running RabbitMQ shows to the application's own login; nothing is declared, consumed or changed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery_doctor.rules import NotAllowedError, Severity, each
from celery_doctor.rules import broker_rules as rule
from celery_doctor.versions import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_doctor.subject import Subject

OLDEST = (4, 3, 5)
WHY_OLDEST = "4.3.3 and 4.3.5 fix defects that lose data (premature commit, incomplete recovery)"
SECONDS = 10  # that the broker has for each answer


class Broker:
    """The broker of an application; every rule has a channel of its own, for an error closes it.

    Args:
        subject: the application.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @cached_property
    def _attempt(self) -> Any:
        """The connection, or what came instead: a broker that is away is waited for once."""
        try:
            connection = self.subject.app.connection_for_write(connect_timeout=SECONDS)
            connection.ensure_connection(max_retries=3, interval_start=1, interval_step=1)
            connection.connection.transport.sock.settimeout(SECONDS)
        except Exception as error:  # noqa: BLE001 - raised again by each rule that needs it
            return error
        return connection

    @property
    def connection(self) -> Any:
        """The connection.

        Raises:
            kombu.exceptions.OperationalError: no broker answers.
            amqp.exceptions.AMQPError: it refuses the login.
        """
        if isinstance(self._attempt, Exception):
            raise self._attempt
        return self._attempt

    def there(self, passive: Callable[[Any], Any]) -> Any:
        """Return the answer to a passive declaration, None when the thing is not there.

        Raises:
            NotAllowedError: the login has no permission for it.
        """
        from amqp.exceptions import AccessRefused, NotFound  # noqa: PLC0415 - only for RabbitMQ

        channel = self.connection.channel()
        try:
            return passive(channel)
        except NotFound:
            return None
        except AccessRefused as error:
            raise NotAllowedError(f"{error.reply_text}; ask with the login of a worker") from error
        finally:
            if channel.is_open:
                channel.close()

    def queue(self, name: str) -> Any:
        """Return the counts of a queue, None when it is not there."""
        return self.there(lambda channel: channel.queue_declare(name, passive=True))

    def close(self) -> None:
        """Close the connection."""
        if not isinstance(self._attempt, Exception):
            self._attempt.release()


@rule("HF801-rabbitmq-version", Severity.FATAL, loss=WHY_OLDEST, fix="upgrade RabbitMQ to 4.3.5 or newer")
def version(broker: Broker) -> str | None:
    found = str(broker.connection.connection.server_properties.get("version", "0"))
    return f"RabbitMQ {found}" if number(found) < OLDEST else None


@rule(
    "HF802-queue-missing",
    Severity.FATAL,
    loss="tasks for it are unroutable",
    fix="import the definitions before the application",
)
def missing(broker: Broker) -> Iterator[str]:
    def look(name: str) -> Iterator[str]:
        if broker.queue(name) is None:
            yield f"queue {name} is not there"

    return each(broker.subject.queues, look)


@rule("HF803-no-consumer", Severity.WARNING, loss="tasks wait and no worker runs them", fix="start a worker with -Q")
def no_consumer(broker: Broker) -> Iterator[str]:
    def look(name: str) -> Iterator[str]:
        counts = broker.queue(name)
        if counts is not None and not counts.consumer_count:
            yield f"queue {name} has no consumer, {counts.message_count} ready"

    return each(broker.subject.queues, look)


@rule(
    "HF804-no-delay-topology",
    Severity.FATAL,
    loss="a countdown or delayed retry fails until a first worker has declared it",
    fix="import the celery_delayed_* exchanges and queues with the definitions",
)
def no_delay(broker: Broker) -> str | None:
    exchange = "celery_delayed_delivery"
    found = broker.there(lambda channel: channel.exchange_declare(exchange, "topic", passive=True) or True)
    return None if found else f"exchange {exchange} is not there"

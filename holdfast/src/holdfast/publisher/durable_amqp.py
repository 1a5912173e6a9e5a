"""Where the publisher meets Celery: every task message of an app passes here, whoever sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.app.amqp import AMQP
from kombu import pools
from kombu.utils.imports import symbol_by_name

from holdfast.audit import marks, publishers
from holdfast.logs import about
from holdfast.published import PUBLISHED_AT, now
from holdfast.publisher import delay, recorder
from holdfast.publisher.log import logger
from holdfast.publisher.message import prepare
from holdfast.publisher.policy import Policy
from holdfast.publisher.publisher import Fallback, Publisher
from holdfast.publisher.recorder import collecting
from holdfast.request import PutBack, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from kombu import Connection

__all__ = ["DurableAMQP", "LazyProducer", "ProducerPool", "TaskProducer", "collecting"]


class DurableAMQP(AMQP):
    """Celery's AMQP layer of an app, with task messages going through a :class:`Publisher`."""

    app: Celery
    _producer_pool: ProducerPool | None

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self.fallback: Fallback | None = None
        self.sends: Callable[..., Any] | None = None  # the app's send_task, where Celery's own is all that it calls
        self._publishers: dict[tuple[str, ...], Publisher] = {}
        self._known: WeakKeyDictionary[Connection, Publisher] = WeakKeyDictionary()

    def publisher(self, connection: Connection | None = None) -> Publisher:
        """Return the publisher of this process for a cluster.

        Args:
            connection: names the cluster; None for the one that the app writes to.
        """
        if connection is None:
            connection = self.producer_pool.connections.connection
        known = self._known.get(connection)
        if known is not None:
            return known
        key = tuple(connection.alt) or (connection.as_uri(include_password=True),)
        publisher = self._publishers.get(key)
        if publisher is None:
            fallback = self.fallback or _configured(self.app.conf.get("holdfast_publish_fallback"))
            made = Publisher(connection, Policy.from_settings(self.app.conf), fallback)
            made.expired = self.app.conf.get("holdfast_expired_queue")
            made.audit = publishers.notes(self.app)
            publisher = self._publishers.setdefault(key, made)  # no lock: a fork could inherit it held
        self._known[connection] = publisher
        return publisher

    def stamp(self, task_id: str) -> str:
        """Return the time of a message that is published now, marked if it is to be audited.

        Args:
            task_id: its task's.
        """
        notes = publishers.notes(self.app)
        return notes.stamp(task_id) if notes else now()

    @property
    def producer_pool(self) -> ProducerPool:  # type: ignore[override]  # looks the same, is not a subclass
        """Celery's pool of producers; taking one for a task message occupies no slot."""
        if self._producer_pool is None:
            stock = pools.producers[self.app.connection_for_write()]
            stock.limit = self.app.pool.limit
            self._producer_pool = ProducerPool(stock, self.app.conf.broker_pool_acquire_timeout)
        return self._producer_pool

    def _create_task_sender(self) -> Callable[..., Any]:
        stock = super()._create_task_sender()  # type: ignore[misc]  # not in the stubs

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            options["retry"] = False  # Celery would repeat the whole publish, deadline included
            if _expires(message):
                # Celery's TTL of the message. The broker would dead-letter the task without a state, for ever pending;
                # a worker that finds the header's time passed stores REVOKED
                options.pop("expiration", None)
            return stock(TaskProducer(self, producer), name, message, **options)

        return send_task_message

    def _retry_publish(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Send links and chain steps; Celery would call the finished task failed, and the rest of the chain with it.

        Raises:
            PutBack: no broker took it now; the finished task runs again and sends it then.
        """
        try:
            return super()._retry_publish(publish, *args, **kwargs)  # type: ignore[misc]  # not in the stubs
        except Exception as error:
            if not unavailable(error):
                raise
            raise PutBack(f"what follows it was not accepted: {error}") from error


class TaskProducer:
    """Stands in for a kombu producer while Celery sends one task message."""

    def __init__(self, amqp: DurableAMQP, producer: Any) -> None:
        self._amqp = amqp
        self._producer = producer
        self.connection: Connection = producer.connection

    def publish(self, body: Any, **options: Any) -> object:
        """Publish a task durably; anything else (the task-sent event) goes the stock way.

        Args:
            body: what the serializer gets.
            options: those of ``kombu.Producer.publish``; ``timeout`` and ``confirm_timeout`` shorten the deadline.

        Raises:
            NotAcknowledged: the kind says why.
        """
        tape = recorder.running()
        if "correlation_id" not in options:
            return None if tape and tape.silent else self._producer.publish(body, **options)
        if tape and tape.only not in {None, options["correlation_id"]}:
            tape = None  # it interrupts the one that is recorded
        given = options.get("headers") or {}
        # new for each retry; of what is recorded for later the relay says which message is audited
        at = now() if tape and tape.silent else self._amqp.stamp(options["correlation_id"])
        options["headers"] = {name: given[name] for name in given if name != marks.AUDITED_AT} | {PUBLISHED_AT: at}
        if self.connection.transport.driver_type != "amqp":
            return (tape or self._producer).publish(body, **options)
        publisher = self._amqp.publisher(self.connection)
        declare = options.pop("declare", None) or ()
        deadline = options.pop("confirm_timeout", None) or options.pop("timeout", None)
        message = prepare(body, **options)
        if message.exchange != delay.EXCHANGE:
            publisher.topology[message.exchange, message.routing_key] = [e for e in declare if not e.no_declare]
        elif delay.ANY_KEY not in publisher.topology:
            publisher.topology[delay.ANY_KEY] = delay.entities(self._amqp.app)
        if tape is not None:
            tape.messages.append(message)
            return None
        with about(message.headers):
            acknowledged = publisher.publish(message, deadline)
            logger.debug("task %s is %s", message.task_id, "published" if acknowledged else "stored")
        return acknowledged


class ProducerPool:
    """Looks like kombu's pool of producers. A slot, and with it a connection, is taken by those who use the channel."""

    def __init__(self, stock: Any, timeout: float | None) -> None:
        self._stock = stock
        self._timeout = timeout

    def acquire(self, block: bool = False, timeout: float | None = None) -> LazyProducer:
        """Return a producer at once; ``block`` and ``timeout`` (seconds) hold when its channel is first used."""
        return LazyProducer(self._stock, block, timeout or self._timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


class LazyProducer:
    """A producer of the pool that is acquired when something other than a task is published with it."""

    def __init__(self, pool: Any, block: bool, timeout: float | None) -> None:
        self._acquire: Callable[[], Any] = lambda: pool.acquire(block=block, timeout=timeout)
        self._stock: Any = None
        self.connection: Connection = pool.connections.connection

    def __getattr__(self, name: str) -> Any:
        if self._stock is None:
            self._stock = self._acquire()
        return getattr(self._stock, name)

    def __enter__(self) -> LazyProducer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        stock, self._stock = self._stock, None
        if stock is not None:
            stock.__exit__(*exc_info)

    def release(self) -> None:
        """Give the slot back, if one was taken."""
        self.__exit__(None, None, None)

    close = release


def _expires(message: Any) -> bool:
    """Tell whether a message of either protocol says when its task expires."""
    fields = message.body if isinstance(message.body, dict) else message.headers
    return fields.get("expires") is not None


def _configured(fallback: Any) -> Fallback | None:
    """Return the callable that the setting ``holdfast_publish_fallback`` names."""
    found: Fallback | None = symbol_by_name(fallback) if isinstance(fallback, str) else fallback
    if found is not None and not callable(found):
        raise ValueError(f"holdfast_publish_fallback is {fallback!r}; set a callable, or its name as 'module:function'")
    return found

"""Events and replies of the worker's main loop: on a connection of their own, so that they never stall tasks.

Stock Celery publishes events and remote-control replies with the settings of tasks. With ``confirm_publish`` the main
loop then waits for the confirm of a heartbeat event: during a memory or disk alarm the worker stops, so nothing drains
the queues that caused the alarm. Here both may be lost: they are sent without a confirm within a second, or dropped.
"""

from __future__ import annotations

import os
import uuid
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.app.control import Control as CeleryControl
from celery.events.dispatcher import EventDispatcher
from celery.utils.log import get_logger
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import state
from celery.worker.consumer.events import Events as CeleryEvents
from kombu import Exchange, Producer, Queue
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox as KombuMailbox
from typing_extensions import override

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection

logger = get_logger(__name__)

LIMIT = 1  # seconds that one read or write may take; the main loop stands still meanwhile
PAUSE = 5.0  # seconds without another attempt after a failed one
GATHER = 0.25  # seconds that task events wait for others, to share one publish
CONTROL = "HOLDFAST_REMOTE_CONTROL"  # in the environment; off: this process sends no commands
GREETINGS = {"heartbeat", "enable_events"}  # what a listener sends by itself, and workers do anyway
BATCH = 100  # task events after which they wait no longer


class LossyPublisher:
    """A connection of its own for messages that may be lost, made and remade when one is to be sent.

    Args:
        app: whose broker is meant.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._blocked = False
        self._closed_until = 0.0

    def publish(self, body: Any, exchange: Exchange, routing_key: str, **properties: Any) -> bool:
        """Send a message, or drop it when the broker is away, slow, or blocks publishers.

        Args:
            body: what to send.
            exchange: where to; declared on first use.
            routing_key: for whom.
            properties: further arguments of ``kombu.Producer.publish``.

        Returns:
            True when the message was handed to the broker.
        """
        if monotonic() < self._closed_until:
            return False
        try:
            producer = self._producer or self._open()
            if self._blocked and not self._unblocked():
                return False
            producer.publish(body, exchange=exchange, routing_key=routing_key, declare=[exchange], **properties)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the loop that runs tasks
            logger.warning("Events and replies pause for %s s: %r", PAUSE, error)
            self._closed_until = monotonic() + PAUSE
            self.close()
            return False
        return True

    def close(self) -> None:
        """Give the connection up without telling the broker, which may not answer."""
        connection, self._connection, self._producer = self._connection, None, None
        self._blocked = False
        if connection:
            connection.collect()

    def _open(self) -> Producer:
        connection = self._app.connection_for_write(
            connect_timeout=LIMIT,
            # events keep it alive; without, RabbitMQ may keep a TLS connection whose client has gone (erlang/otp#10791)
            heartbeat=self._app.conf.broker_heartbeat,
            transport_options=self._transport_options(),
        )
        self._connection = connection
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=2 * LIMIT)
        bound_open_broker_sockets(connection, LIMIT)
        if connection.transport.driver_type == "amqp":
            amqp: Any = connection.connection
            amqp.on_blocked = lambda _reason: self._set_blocked(True)
            amqp.on_unblocked = lambda: self._set_blocked(False)
        self._producer = Producer(connection.channel(), auto_declare=False)
        return self._producer

    def _transport_options(self) -> dict[str, Any]:
        return {**self._app.conf.broker_transport_options, "confirm_publish": False}

    def _set_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        logger.warning("Events and replies %s: the broker's alarm", "pause" if blocked else "resume after")

    def _unblocked(self) -> bool:
        try:
            while self._blocked and self._connection:
                self._connection.drain_events(timeout=0)
        except TimeoutError:
            pass
        return not self._blocked


class Dispatcher(EventDispatcher):
    """Celery's event dispatcher on a connection of its own; with an event loop it gathers the events of tasks.

    Args:
        lossy: where the events go.
        hub: the event loop; None where there is none, which sends every event at once.
        kwargs: further arguments of Celery's dispatcher.
    """

    def __init__(self, lossy: LossyPublisher, hub: Any, **kwargs: Any) -> None:
        self.lossy = lossy
        self._hub = hub
        self._waiting = False
        super().__init__(
            connection=None,
            buffer_while_offline=False,
            buffer_group=["task"] if hub else None,
            buffer_limit=BATCH,
            on_send_buffered=self._send_soon if hub else None,
            **kwargs,
        )

    def _send_soon(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._hub.call_later(GATHER, self._send_gathered)

    def _send_gathered(self) -> None:
        self._waiting = False
        self.flush()

    def _publish(self, event: Any, producer: object, routing_key: str, **_: Any) -> None:
        if producer is not None:  # None says that the dispatcher is closed
            self.lossy.publish(
                event,
                self.exchange,
                routing_key,
                serializer=self.serializer,
                headers=self.headers,
                delivery_mode=self.delivery_mode,
            )


class Events(CeleryEvents):
    """The worker's step that makes the dispatcher; it opens no connection, so it cannot hang or break the worker's."""

    @override
    def start(self, c: Any) -> None:
        self._close(c)
        c.event_dispatcher = Dispatcher(
            c.lossy,
            c.hub,
            app=c.app,
            hostname=c.hostname,
            enabled=self.send_events,
            groups=self.groups,
        )
        for request in tuple(state.reserved_requests):
            request.eventer = c.event_dispatcher

    @override
    def shutdown(self, c: Any) -> None:
        if c.event_dispatcher:
            c.event_dispatcher.flush()  # what the last tasks left
        super().shutdown(c)
        c.lossy.close()


class Mailbox(KombuMailbox):
    """The worker's mailbox for remote control, with a queue per connection and replies on a connection of their own."""

    lossy: LossyPublisher | None = None  # set in a worker

    @override
    def get_queue(self, hostname: str) -> Queue:
        """Describe the queue for commands.

        Its name is new each time: under one name per host, a worker that reconnects before the broker has noticed that
        the old connection is gone meets its own exclusive queue, gets 405 RESOURCE_LOCKED and stops or loops.
        """
        return Queue(
            f"{hostname}.{uuid.uuid4().hex}.{self.namespace}.pidbox",
            exchange=self.exchange,
            durable=False,
            exclusive=True,
            auto_delete=True,
            message_ttl=self.queue_ttl,
        )

    def _publish_reply(self, reply: Any, exchange: str, routing_key: str, ticket: str, *args: Any, **opts: Any) -> None:
        if self.lossy is None:
            super()._publish_reply(reply, exchange, routing_key, ticket, *args, **opts)
            return
        self.lossy.publish(
            reply,
            Exchange(exchange, type="direct", durable=False, delivery_mode="transient"),
            routing_key,
            headers={"ticket": ticket, "clock": self.clock.forward()},
            serializer=self.serializer,
        )


class ControlOffError(OperationalError):
    """This process may send no remote control commands; Flower goes on after an ``OperationalError``."""


class Control(CeleryControl):
    """Celery's remote control with :class:`Mailbox`, and without commands where :data:`CONTROL` is ``off``."""

    Mailbox = Mailbox

    @override
    def broadcast(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """Send a command to workers.

        A login that may only listen must not try: the broker's refusal closes the channel, that of a receiver's events
        too, which asks workers for a heartbeat when it starts.

        Args:
            command: its name; the other arguments are those of Celery.

        Returns:
            The replies, or None.

        Raises:
            ControlOffError: this process may send none.
        """
        if os.environ.get(CONTROL, "").strip().lower() != "off":
            return super().broadcast(command, *args, **kwargs)
        if command in GREETINGS:
            return None
        raise ControlOffError(
            f"found: the command {command}, and {CONTROL}=off, for a login that may not control workers. allowed: "
            "looking. next: log in as an operator (login-operator.env), or let this login control workers: "
            "rabbitmq_remote_control in the inventory"
        )

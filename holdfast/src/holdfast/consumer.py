"""The worker's main loop: settles every message, limits every wait, and reports its state.

Choose it with ``worker_consumer = "holdfast.consumer:Consumer"`` (:func:`install` does).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from amqp import spec
from amqp.exceptions import AccessRefused
from celery.app.control import Control as CeleryControl
from celery.exceptions import ImproperlyConfigured, WorkerShutdown
from celery.signals import worker_init
from celery.utils.log import get_logger
from celery.utils.threads import bound_open_broker_sockets
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer import Events as CeleryEvents
from celery.worker.consumer import Gossip, Mingle
from celery.worker.consumer.consumer import MESSAGE_DECODE_ERROR, dump_body
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from kombu.connection import failover_strategies  # type: ignore[attr-defined]  # missing in the stubs
from kombu.utils.encoding import safe_repr
from kombu.utils.url import parse_url
from typing_extensions import override

from holdfast import audit, request
from holdfast.events import Control, Events, LossyPublisher
from holdfast.expired import Expired, past
from holdfast.heartbeat import Heartbeat
from holdfast.logins import refusal
from holdfast.logs import about
from holdfast.metrics import numbers
from holdfast.mixin import mixed
from holdfast.notices import Notices
from holdfast.request import PutBack, Request
from holdfast.startup import at_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery
    from kombu import Connection
    from kombu.message import Message

    from holdfast.audit.workers import Ended

logger = get_logger(__name__)

HOLD = 1.0  # seconds for which a message that goes back stays here: without a delay in the broker it must not spin
IO_LIMIT = 10.0  # seconds for one read or write on the consuming connection; a frozen node would take them for ever


class Consumer(CeleryConsumer):
    """Celery's consumer without the gaps in which it drops a message, stops or hangs."""

    class Blueprint(CeleryConsumer.Blueprint):
        """The same steps, with events on a connection of their own."""

        def _finalize_steps(self, steps: dict[str, Any]) -> Iterable[Any]:
            return (Events if step is CeleryEvents else step for step in super()._finalize_steps(steps))

    steps: list[Any]
    ended: Ended | None = None

    def __init__(self, *args: Any, app: Celery, **kwargs: Any) -> None:
        self.lossy = LossyPublisher(app)
        control: Any = app.control
        control.mailbox.lossy = self.lossy
        self._place: tuple[str | None, int | None] = (None, None)
        self._at_work = False
        self.ended = audit.ended(app)
        super().__init__(*args, app=app, **kwargs)
        # These publish or declare from the main loop and wait for the answer. Delay queues belong to the broker's
        # definitions, unless the application declares its own queues, too.
        left_out: tuple[type, ...] = (Mingle, Gossip)
        queues: Any = app.amqp.queues
        if all(queue.no_declare for queue in queues.values()):
            left_out += (DelayedDelivery,)
        self.heartbeat = Heartbeat(self)
        self.steps = [step for step in self.steps if not isinstance(step, left_out)]
        self.expired = Expired(self)
        self.steps[-1:-1] = (self.heartbeat, self.expired, Notices(self))  # before the event loop, which is always last

    # -- connecting

    @override
    def connect(self) -> Connection:
        """Connect, with a limit on every read and write.

        Stock Celery waits without one for the answers to qos, declare and consume: a node that freezes at that moment
        leaves a worker that is connected and idle for as long as the node's kernel answers for it.
        """
        self.heartbeat.connecting()
        connection = super().connect()
        bound_open_broker_sockets(connection, IO_LIMIT)
        return connection

    @override
    def connection_for_read(self, heartbeat: float | None = None) -> Connection:
        """Connect to any of the nodes, except the one of last time, which comes last.

        Stock Celery begins with the first of the list each time. So all workers sit on one node, and a node that takes
        connections and cannot serve them, like one without majority, is chosen again and again.
        """
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        others = [node for node in connection.alt if _place(parse_url(node)) != self._place]
        if connection.transport.driver_type == "amqp" and others:
            in_order = connection.failover_strategy is failover_strategies["round-robin"]
            connection.switch(others[0] if in_order else random.choice(others))  # noqa: S311 - spreads load, no secret
        connection = self.ensure_connected(connection)
        self._place = connection.hostname, connection.port
        return connection

    @override
    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Connect again, unless the first answer of the broker is that this login may not consume.

        Stock Celery would ask for ever. A refusal later on may be a change under way, so it is asked again.

        Raises:
            WorkerShutdown: the broker refuses a queue to this login.
        """
        if isinstance(exc, AccessRefused) and not self._at_work:
            logger.critical(refusal("worker", "consume tasks", exc))
            raise WorkerShutdown(1) from exc
        super().on_connection_error_after_connected(exc)

    # -- messages of tasks

    @override
    def update_strategies(self) -> None:
        """Receive every task's messages with a request class of the layer, whatever the base of the task."""
        request.mix_in(self.app)
        super().update_strategies()

    # -- queues by remote control

    @override
    def cancel_task_queue(self, queue: str) -> None:
        """Stop consuming from a queue, and note since when: the probe and the watch must not take it for a fault."""
        consumed = self.app.amqp.queues.consume_from
        before = set(consumed)
        try:
            super().cancel_task_queue(queue)
            self.expired.close_window(queue)
        finally:
            self.heartbeat.paused(before - set(consumed))

    @override
    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        """Consume from a queue, also from one that was cancelled."""
        super().add_task_queue(queue, *args, **options)
        self.heartbeat.resumed(self.app.amqp.queues.consume_from)

    # -- messages that are not tasks

    @override
    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], None]:
        self._at_work = True
        handle = super().create_task_handler(*args, **kwargs)
        errors = (*self.connection_errors, *self.channel_errors)
        queues: dict[str, str] = {}  # by consumer tag, of this connection

        def on_message(message: Any) -> None:
            self.heartbeat.received += 1
            info = message.delivery_info
            tag = info.get("consumer_tag")
            if not hasattr(message, "queue"):
                if tag not in queues:
                    queues.update({tag: name for name, tag in self.task_consumer._active_tags.items()})
                # Redis as the broker names no consumer; there the key ends with the queue's name
                message.queue = queues.get(tag) or str(info.get("routing_key", "")).rpartition(".")[2]
            message.put_back = lambda: self.timer.call_after(HOLD, self.give_back, (message,))
            if self.ended is not None:
                self.ended.follow(message)
            late: list[Request] = []
            message.settle_expired = late.append
            with about(message.headers or {}):
                try:
                    handle(message)
                except errors:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever a message contains, it must not end the worker
                    self.on_decode_error(message, error)
            message.settle_expired = self.expired.add  # a task with a delay may expire later
            self.expired.seen(message.queue, bool(late) and past(message.headers))
            for one in late:
                self.expired.add(one)

        self.expired.handle = on_message
        return on_message

    @override
    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Reject what cannot be read into the dead-letter queue; stock Celery acknowledges it, and it is gone."""
        logger.critical(
            MESSAGE_DECODE_ERROR,
            exc,
            message.content_type,
            message.content_encoding,
            safe_repr(message.headers),
            dump_body(message, message.body),
            exc_info=exc,
        )
        channel: Any = message.channel
        for_control = message.delivery_info.get("consumer_tag") in (channel.no_ack_consumers or ())
        if not message.acknowledged and not for_control:
            message.reject_log_error(logger, self.connection_errors)
            _count(message)

    @override
    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:
        """Reject a task that this worker does not know; stock Celery also ends when its failure cannot be recorded."""
        _count(message)
        try:
            super().on_unknown_task(body, message, exc)
        except PutBack as error:
            logger.warning("The unknown task is dead-lettered without a stored failure: %s", error.reason)

    @override
    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> None:
        super().on_invalid_task(body, message, exc)
        _count(message)

    # -- messages that go back

    def give_back(self, message: Message) -> None:
        """Requeue with ``basic.nack``: kombu's requeue is ``basic.reject``, which counts towards the delivery limit.

        The queue's policy ``delayed-retry-type: all`` lets others go first; without it the message returns to the head.
        """
        channel: Any = message.channel
        send = getattr(channel, "send_method", None)
        try:
            if send:
                send(spec.Basic.Nack, "Lbb", (message.delivery_tag, False, True))
            else:  # Redis as the broker
                message.requeue()
        except (*self.connection_errors, *self.channel_errors) as error:
            logger.warning("A message could not be put back; the broker will requeue it: %r", error)


def _place(url: dict[str, Any]) -> tuple[str | None, int | None]:
    return url["hostname"], url["port"]


def _count(message: Any) -> None:
    """Count a dead-lettered message; a name that somebody else chose must not become a label."""
    numbers.task_ended("unknown", getattr(message, "queue", ""), "dead_lettered")


def install(app: Celery) -> None:
    """Make the workers of ``app`` use :class:`Consumer`, and its remote control queues that a reconnect cannot meet.

    An own consumer or control class of the application is combined with the layer's.

    Raises:
        ImproperlyConfigured: the own control class cannot be combined.
    """
    control: Any = mixed(app.control_cls, Control, CeleryControl, f"The control class of {app!r}")
    app.control_cls = control
    vars(app).pop("control", None)

    def check(worker: Any) -> None:
        try:
            worker.consumer_cls = mixed(worker.consumer_cls, Consumer, CeleryConsumer, "worker_consumer")
        except ImproperlyConfigured as error:
            raise SystemExit(f"holdfast: {error}") from error

    at_start(app, check, worker_init)

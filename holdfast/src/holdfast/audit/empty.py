"""What a worker notes of its queues: when it has found one empty. The login of the auditor may not ask that."""

from __future__ import annotations

from threading import Thread
from time import sleep, time
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ChannelError
from celery.utils.log import get_logger
from celery.utils.threads import bound_open_broker_sockets

from holdfast.audit import store

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

LOOK = 20.0  # seconds between two looks
IO_LIMIT = 10.0  # seconds for one answer of the broker


class EmptyQueues:
    """Asks for the queues that this worker consumes, over a connection of its own: the main loop must not wait for it.

    Args:
        app: the application, whose results' Redis takes the notes.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._broker = app.connection_for_read()
        self._broker.transport  # noqa: B018 - made here, because kombu looks for modules: a thread must import none
        self._complained = False

    def start(self) -> None:
        """Look again and again, from a thread."""
        Thread(target=self._run, name="audit-queues", daemon=True).start()

    def _run(self) -> None:
        while True:
            sleep(LOOK)
            try:
                self.look()
                self._complained = False
            except Exception as error:  # noqa: BLE001 - of two client libraries; the next look may succeed
                (logger.debug if self._complained else logger.warning)(
                    "audit: tasks are counted later, the queues cannot be asked for their length: %r", error
                )
                self._complained = True

    def look(self) -> None:
        """Note which queues are empty now.

        Raises:
            OperationalError: no broker answers.
            OSError: it has gone away.
            AMQPError: likewise.
            RedisError: the notes cannot be written.
        """
        now = time()
        try:
            found = [name for name in tuple(self._app.amqp.queues.consume_from) if self._empty(name)]
        except BaseException:
            self._broker.release()
            raise
        if found:
            client: Any = self._app.backend.client
            client.zadd(store.EMPTY, dict.fromkeys(found, now), gt=True)

    def _empty(self, name: str) -> bool:
        """Tell whether a queue has no message for a consumer.

        The broker says the same of a queue whose leader is away; but that one has no consumers, either.
        """
        if not self._broker.connected:
            self._broker.connect()
            bound_open_broker_sockets(self._broker, IO_LIMIT)
        channel: Any = self._broker.channel()
        try:
            answer = channel.queue_declare(name, passive=True)
        except ChannelError:  # it does not exist; the channel is closed
            return False
        channel.close()
        return bool(answer.consumer_count) and not answer.message_count

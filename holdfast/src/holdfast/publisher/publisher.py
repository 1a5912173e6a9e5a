"""Publishes messages so that each one ends in one of three ways: acknowledged, an error that says why, or stored."""

from __future__ import annotations

import weakref
from time import monotonic, sleep
from typing import TYPE_CHECKING

from holdfast.metrics import numbers
from holdfast.publisher.attempt import Attempts, Cluster, Fallback
from holdfast.publisher.errors import NotAcknowledged, Refused
from holdfast.publisher.link import Pending
from holdfast.publisher.nodes import Nodes
from holdfast.publisher.pipeline import WINDOW, Outcome, Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kombu import Connection

    from holdfast.publisher.message import Message, Wire
    from holdfast.publisher.policy import Policy

__all__ = ["Fallback", "Publisher"]


class Publisher(Cluster):
    """The way of one process to one cluster. Safe to share between threads and across forks.

    A signal handler, ``__del__`` or a logging handler may publish while a publish of the same thread is under way: the
    inner one uses connections of its own.

    Args:
        connection: a kombu AMQP connection with all nodes in its URL; it is never connected itself.
        policy: deadlines and back-off.
        fallback: where a message goes that is not acknowledged within its deadline, for reasons that may pass.
    """

    def __init__(self, connection: Connection, policy: Policy, fallback: Fallback | None = None) -> None:
        super().__init__(Nodes(connection, policy.connect), policy, fallback)
        weakref.finalize(self, self.nodes.close)  # also at exit: the broker logs a connection that just vanishes

    def publish(self, message: Message, deadline: float | None = None) -> bool:
        """Publish one message and wait for its acknowledgement.

        Args:
            message: what to publish; always ``mandatory``.
            deadline: seconds until the call returns or raises; None for the policy's.

        Returns:
            True when a broker acknowledged it, False when the fallback stored it.

        Raises:
            NotAcknowledged: the kind says why; ``maybe_published`` whether a broker may have it.
        """
        return self.carry(message.encode(), deadline)

    def carry(self, wire: Wire, deadline: float | None = None) -> bool:
        """Publish a message that is encoded already, as :meth:`publish` does.

        Args:
            wire: the message.
            deadline: as for :meth:`publish`.
        """
        here = self.nodes.depth
        outer = here.value
        try:
            here.value = outer + 1  # a plain value, put back as it was: a signal handler may raise anywhere in between
            return self._publish(wire, deadline)
        finally:
            here.value = outer

    def publish_all(
        self, messages: Iterable[Message], window: int = WINDOW, deadline: float | None = None
    ) -> Iterator[Outcome]:
        """Publish messages with pipelined confirms; a relay deletes each row whose outcome says ``acknowledged``.

        Args:
            messages: what to publish; read as there is room in the window.
            window: how many of them may be unsettled at a time.
            deadline: seconds for each message; None for the policy's.

        Returns:
            An iterator of outcomes; nothing is published unless it is read.
        """
        return Pipeline(self, window, deadline).run(map(_encoded, messages))

    def close(self) -> None:
        """Close the connections; the next publish opens new ones."""
        self.nodes.close()

    def _publish(self, wire: Wire, deadline: float | None) -> bool:
        begin = monotonic()
        error = self._try(wire, deadline)
        stored = error is not None and self.store(wire, error)
        outcome = "acknowledged" if error is None else "outbox" if stored else error.outcome
        numbers.published(outcome, monotonic() - begin)
        if error is None:
            self.acknowledged(wire)
        if error is not None and not stored:
            raise error
        return not stored

    def _try(self, wire: Wire, deadline: float | None) -> NotAcknowledged | None:
        refused = self.refusal(wire)
        if isinstance(refused, NotAcknowledged):
            return refused
        attempts = Attempts(self, wire, deadline)
        pause: float | None = 0.0
        while pause is not None:
            if pause:
                sleep(pause)
            attempts.begin()
            try:
                self._once(attempts)
            except NotAcknowledged as error:
                pause = attempts.failed(error, monotonic())
            else:
                return None
        return attempts.failure

    def _once(self, attempts: Attempts) -> None:
        if attempts.alone:
            self.nodes.publish_alone(attempts.node, attempts.wire, attempts.limits)
            return
        link = self.nodes.link(attempts.node, attempts.limits)
        pending = Pending(attempts.wire)
        link.submit((pending,), attempts.limits.until)
        link.wait(pending, attempts.limits)
        if pending.error is not None:
            raise pending.error


def _encoded(message: Message) -> Wire | Refused:
    try:
        return message.encode()
    except Refused as error:
        return error

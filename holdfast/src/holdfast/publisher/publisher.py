"""Publishes messages so that each one ends in one of three ways: acknowledged, an error that says why, or stored."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded

from holdfast.metrics import numbers
from holdfast.publisher.bulk import WINDOW, Outcome, Pipeline
from holdfast.publisher.errors import Blocked, Nacked, NotAcknowledged, Refused, Unroutable
from holdfast.publisher.link import Pending, Suspected
from holdfast.publisher.message import Message, Wire
from holdfast.publisher.nodes import Nodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kombu import Connection

    from holdfast.publisher.policy import Limits, Policy

logger = logging.getLogger(__name__)

Fallback = Callable[[Message], None]
"""Stores a message that no broker accepted; returns when it is stored, raises when it could not be."""


class Publisher:
    """The way of one process to one cluster. Safe to share between threads and across forks.

    Args:
        connection: a kombu AMQP connection with all nodes in its URL; it is never connected itself.
        policy: deadlines and back-off.
        fallback: where a message goes that is not acknowledged within its deadline, for reasons that may pass.

    Attributes:
        topology: by exchange and routing key, the kombu entities to declare when the broker finds a message unroutable.
    """

    def __init__(self, connection: Connection, policy: Policy, fallback: Fallback | None = None) -> None:
        self.policy = policy
        self.fallback = fallback
        self.topology: dict[tuple[str, str], list[Any]] = {}
        self.nodes = Nodes(connection, policy.connect)
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
        wire = message.encode()
        begin = monotonic()
        try:
            self._publish(wire, deadline)
        except NotAcknowledged as error:
            stored = self.store(wire, error)
            numbers.published("outbox" if stored else error.outcome, monotonic() - begin)
            if not stored:
                raise
            return False
        numbers.published("acknowledged", monotonic() - begin)
        return True

    def store(self, wire: Wire, error: NotAcknowledged) -> bool:
        """Hand a message that was not acknowledged to the fallback.

        Returns:
            True when it is stored; False when there is no fallback or the message would never be accepted.
        """
        if self.fallback is None or not error.retryable:
            return False
        try:
            self.fallback(Message.decode(wire))
        except SoftTimeLimitExceeded:
            raise  # it is meant for the caller
        except Exception:
            logger.exception("task %s: neither a broker nor the fallback took it", wire.task_id)
            return False
        logger.warning("task %s went to the fallback: %s", wire.task_id, error)
        return True

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

    def refusal(self, wire: Wire | Exception) -> Exception | None:
        """Return why a message must not even be sent, or None.

        The broker would answer a body above its limit by closing the channel, and with it everything in flight.

        Args:
            wire: the message; an exception, for one that could not be built, is returned.
        """
        if isinstance(wire, Exception):
            return wire
        if len(wire.body) <= self.policy.max_bytes:
            return None
        return Refused(
            f"its body has {len(wire.body)} bytes, {self.policy.max_bytes} are allowed; pass a reference to the data, "
            "or raise max_message_size of the broker and holdfast_publish_max_bytes together",
            task_id=wire.task_id,
        )

    def declare(self, error: NotAcknowledged, node: int, wire: Wire, limits: Limits) -> bool:
        """Declare the queue of an unroutable message, for an app whose topology is not provisioned on the broker.

        Args:
            error: how publishing it ended.
            node: where to declare.
            wire: the message.
            limits: when to stop waiting.

        Returns:
            True when the message is worth another attempt.
        """
        entities = self.topology.get((wire.exchange, wire.routing_key))
        if not entities or not isinstance(error, Unroutable):
            return False
        try:
            self.nodes.declare(node, entities, limits)
        except NotAcknowledged:
            logger.exception("task %s: its queue is missing and cannot be declared", wire.task_id)
            return False
        return True

    def next_turn(self, error: NotAcknowledged, node: int, turn: int) -> int:
        """Return how many places after the preferred node the next attempt goes, and stop preferring a failed node.

        Args:
            error: how the attempt ended.
            node: where it went.
            turn: how many places after the preferred node that was.
        """
        if isinstance(error, Suspected | Blocked):
            return turn  # nothing is wrong with the node, or every other one is blocked as well
        if turn or isinstance(error, Nacked):
            return turn + 1
        self.nodes.avoid(node)
        return turn

    def close(self) -> None:
        """Close the connections; the next publish opens new ones."""
        self.nodes.close()

    def _publish(self, wire: Wire, deadline: float | None) -> None:
        refused = self.refusal(wire)
        if refused is not None:
            raise refused
        turn, maybe, doubted, declared = 0, False, False, False
        failure: NotAcknowledged | None = None
        for limits in self.policy.attempts(deadline):
            node = self.nodes.pick(turn)
            try:
                if isinstance(failure, Suspected):
                    self.nodes.publish_alone(node, wire, limits)
                else:
                    self._publish_once(node, wire, limits)
            except NotAcknowledged as error:
                suspected = (
                    isinstance(failure, Suspected) and error.retryable
                )  # else it was this message: not published
                # an attempt that the deadline cut off says less than the answer before it
                cut = failure is not None and error.retryable and monotonic() >= limits.end
                told = failure if failure is not None and cut else error
                failure = told.about(wire.task_id, maybe_published=maybe or suspected or error.maybe_published)
                if not isinstance(error, Suspected):
                    maybe = failure.maybe_published
                if error.retryable:
                    turn = self.next_turn(error, node, turn)
                elif not doubted:  # a node without its log knows no exchange and no user: another one decides
                    doubted, turn = True, turn + 1
                elif not declared and self.declare(error, node, wire, limits):
                    declared = True
                else:
                    break
            else:
                return
        assert failure is not None, "there is always a first attempt"  # noqa: S101 - for the type checker
        raise failure

    def _publish_once(self, node: int, wire: Wire, limits: Limits) -> None:
        link = self.nodes.link(node, limits)
        pending = Pending(wire)
        link.submit((pending,))
        link.wait(pending, limits)
        if pending.error is not None:
            raise pending.error


def _encoded(message: Message) -> Wire | Refused:
    try:
        return message.encode()
    except Refused as error:
        return error

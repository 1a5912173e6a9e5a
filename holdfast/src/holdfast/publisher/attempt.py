"""What becomes of one message: the same rules whether it is published alone or with many others."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded

from holdfast.publisher import delay
from holdfast.publisher.errors import Blocked, Nacked, NotAcknowledged, Refused, Unreachable, Unroutable
from holdfast.publisher.link import Pending, Suspected
from holdfast.publisher.log import logger
from holdfast.publisher.message import Message, Wire
from holdfast.publisher.nodes import DEPTH
from holdfast.publisher.notice import notice_of

if TYPE_CHECKING:
    from holdfast.audit.publishers import Acknowledged
    from holdfast.publisher.nodes import Nodes
    from holdfast.publisher.policy import Limits, Policy


BRIEF = 0.5  # seconds that a notice waits for another thread that uses the link
REST = 60.0  # seconds without notices after one that was not taken

Fallback = Callable[[Message], None]
"""Stores a message that no broker accepted; returns when it is stored, raises when it could not be."""


class Cluster:
    """What every publish to one cluster needs.

    Args:
        nodes: where to publish.
        policy: deadlines and back-off.
        fallback: where a message goes that is not acknowledged within its deadline, for reasons that may pass.

    Attributes:
        expired: the queue for notices of expired tasks; None to send none.
        audit: where to note what is acknowledged; None to note nothing.
        topology: by exchange and routing key, the kombu entities to declare when the broker finds a message unroutable.
    """

    def __init__(self, nodes: Nodes, policy: Policy, fallback: Fallback | None = None) -> None:
        self.nodes = nodes
        self.policy = policy
        self.fallback = fallback
        self.expired: str | None = None
        self.audit: Acknowledged | None = None
        self._announce_at = 0.0
        self.topology: dict[tuple[str, str], list[Any]] = {}

    def refusal(self, wire: Wire | Exception) -> Exception | None:
        """Return why a message must not even be sent, or None.

        The broker would answer a body above its limit by closing the channel, and with it everything in flight.

        Args:
            wire: the message; an exception, for one that could not be built, is returned.
        """
        if isinstance(wire, Exception):
            return wire
        if self.nodes.depth.value > DEPTH:
            return Unreachable(
                f"{DEPTH} publishes of this thread have interrupted each other; let the signal handler, __del__ or "
                "logging handler that publishes do nothing while it runs already",
                task_id=wire.task_id,
            )
        try:
            wire.check_size(self.policy.max_bytes)
        except Refused as refused:
            return refused
        return None

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
        except Exception:  # noqa: BLE001 - the fallback is the application's own; the line below has the traceback
            logger.exception("task %s: neither a broker nor the fallback took it", wire.task_id)
            return False
        logger.warning("task %s went to the fallback: %s", wire.task_id, error)
        return True

    def acknowledged(self, wire: Wire) -> None:
        """Note that a broker has a message, and send what may get lost of it.

        Args:
            wire: the message.
        """
        if self.audit is not None and wire.mark is not None:
            self.audit.add(wire.mark)
        self.announce(wire)

    def announce(self, wire: Wire) -> None:
        """Send the notice of a task that expires, once the task is published. It may get lost: nobody waits for it.

        Args:
            wire: the message of the task.
        """
        notice = notice_of(wire, self.expired) if self.expired and monotonic() >= self._announce_at else None
        if notice is None:
            return
        link = self.nodes.opened()  # it has just carried the task; to open another one the publish has no time
        if link is not None:
            link.submit((_Notice(notice, self._not_announced),), monotonic() + BRIEF)

    def _not_announced(self, error: NotAcknowledged) -> None:
        """Rest: where notices have no exchange, each would cost the channel and what is under way on it."""
        if error.retryable and not isinstance(error, Suspected):
            return  # this one is lost, the next one may arrive
        self._announce_at = monotonic() + REST
        logger.warning("no notices of expired tasks for %s s: %s", REST, error)

    def declare(self, node: int, wire: Wire, limits: Limits) -> bool:
        """Declare the queue of an unroutable message, for an app whose topology is not provisioned on the broker.

        Args:
            node: where to declare.
            wire: the message.
            limits: when to stop waiting.

        Returns:
            True when the message is worth another attempt.
        """
        place = (wire.exchange, wire.routing_key) if wire.exchange != delay.EXCHANGE else delay.ANY_KEY
        entities = self.topology.get(place)
        if not entities:
            return False
        try:
            self.nodes.declare(node, entities, limits)
        except NotAcknowledged:
            logger.exception("task %s: its queue is missing and cannot be declared", wire.task_id)
            return False
        return True


class _Notice(Pending):
    """A notice on its way.

    Args:
        wire: the message.
        failed: is told when it was not taken.
    """

    __slots__ = ("_failed",)

    def __init__(self, wire: Wire, failed: Callable[[NotAcknowledged], None]) -> None:
        super().__init__(wire)
        self._failed = failed

    def settle(self, error: NotAcknowledged | None) -> None:
        """Record the outcome."""
        super().settle(error)
        if error is not None:
            self._failed(error)


class Attempts:
    """The attempts to publish one message, one after the other, until one succeeds or no other is worth it.

    Call :meth:`begin`, try, and pass an error to :meth:`failed`; when that returns None, :attr:`failure` is final.

    Args:
        cluster: where to publish.
        wire: the message.
        deadline: seconds from now until the verdict; None for the policy's.

    Attributes:
        failure: how it stands after the last attempt; None before that.
        node: where the current attempt goes.
        limits: when the current attempt has to end.
        turn: how many places after the preferred node the next attempt goes.
    """

    failure: NotAcknowledged | None = None  # in the class, because most messages need no second attempt
    turn = 0
    _count = 0
    _maybe = False
    _doubted = False
    _declared = False
    node: int
    limits: Limits

    def __init__(self, cluster: Cluster, wire: Wire, deadline: float | None) -> None:
        self.wire = wire
        self._cluster = cluster
        self._seconds = cluster.policy.deadline if deadline is None else deadline
        self._end = monotonic() + self._seconds

    @property
    def alone(self) -> bool:
        """True when nothing else may be under way on the link of this attempt.

        The broker closed the channel of the last one because of this message or because of another one.
        """
        return isinstance(self.failure, Suspected)

    def begin(self) -> None:
        """Choose the node and the limits of an attempt that starts now."""
        self.node = self._cluster.nodes.pick(self.turn)
        self.limits = self._cluster.policy.limits(self._end)

    def failed(self, error: NotAcknowledged, at: float) -> float | None:
        """Take note of how an attempt failed.

        Args:
            error: the answer, or why there was none.
            at: when that was known, as a ``time.monotonic()`` value.

        Returns:
            Seconds to wait before the next attempt; None when no other attempt is worth it.
        """
        # Alone and without an answer again: the attempt before may have arrived. A clear answer means that it has not
        maybe = self._maybe or error.maybe_published or (self.alone and error.retryable)
        # an attempt that the deadline cut off says less than the answer before it
        cut = self.failure is not None and error.retryable and at >= self._end
        told = self.failure if self.failure is not None and cut else error
        self.failure = told.about(self.wire.task_id, maybe_published=maybe)
        if not isinstance(error, Suspected):
            self._maybe = self.failure.maybe_published
        if not self._worth_another(error):
            return None
        pause = self._cluster.policy.pause(self._count)
        self._count += 1
        last = self._end - self._cluster.policy.reserve(self._seconds)
        return pause if monotonic() + pause < last else None

    def _worth_another(self, error: NotAcknowledged) -> bool:
        """Say whether another attempt makes sense, and decide where it goes."""
        if isinstance(error, Suspected | Blocked):
            return True  # nothing is wrong with the node, or every other one is blocked as well
        if error.retryable:
            if self.turn or isinstance(error, Nacked):
                self.turn += 1
            else:
                self._cluster.nodes.avoid(self.node)
            return True
        if not self._doubted:  # a node without its log knows no exchange and no user: another one decides
            self._doubted = True
            self.turn += 1
            return True
        if self._declared or not isinstance(error, Unroutable):
            return False
        self._declared = self._cluster.declare(self.node, self.wire, self.limits)
        return self._declared

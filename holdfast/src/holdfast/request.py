"""Messages that return to their queue through no fault of their own: not counted as failed deliveries, and not lost."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ConnectionError as AMQPConnectionError
from billiard.einfo import ExceptionWithTraceback
from celery import states
from celery.exceptions import ImproperlyConfigured, InvalidTaskError, Reject
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import Request as CeleryRequest
from kombu.exceptions import OperationalError
from typing_extensions import override

from holdfast.mixin import mixed
from holdfast.startup import at_start

if TYPE_CHECKING:
    from billiard.einfo import ExceptionInfo
    from celery import Celery

logger = get_logger(__name__)

STRATEGY = "celery.worker.strategy:default"  # what receives a message, as every task of Celery names it


def unavailable(error: BaseException) -> bool:
    """Say whether a publish failed because no broker could take the message now."""
    kinds = (OperationalError, OSError, AMQPConnectionError)
    return isinstance(error, kinds) and bool(getattr(error, "retryable", True))


class PutBack(Reject):
    """Raised where a task cannot be finished now through no fault of its own: its message returns to the queue.

    Celery's ``Reject(requeue=True)`` sends ``basic.reject``, which counts towards the queue's delivery limit, so an
    outage of the result store would dead-letter healthy tasks. This one sends ``basic.nack``, which does not count.
    Under a consumer other than :class:`holdfast.consumer.Consumer` it is a plain ``Reject(requeue=True)``.

    Args:
        reason: what cannot be done now.
        requeue: always True; the parameter is there because Celery rebuilds the exception from its arguments.
    """

    def __init__(self, reason: Any = None, requeue: bool = True) -> None:
        super().__init__(reason, requeue)
        self.reason = reason


class Request(CeleryRequest):
    """What the worker's main process does with a task message; every way out settles it exactly once.

    A result store that is away raises :class:`PutBack` from whatever wanted to record a state here. Stock Celery lets
    that error end the worker process (celery#9239): the next worker receives the same message and ends, too.
    """

    acknowledged: bool
    recorded = False  # its final state is stored for good already

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        limits = self.time_limits
        if len(limits) != 2 or not all(limit is None or isinstance(limit, int | float) for limit in limits):
            # found later, in the pool, it would cost the worker the slot that was taken for the task
            raise InvalidTaskError(f"invalid time limits {limits!r}: two numbers of seconds, or null, are allowed")

    def put_back(self) -> None:
        """Return the message to its queue without counting it as a failed delivery."""
        if self.acknowledged:
            return
        put_back = getattr(self.message, "put_back", None)
        if put_back is None:
            self.reject(requeue=True)
            return
        put_back()
        self.acknowledged = True
        self.send_event("task-rejected", requeue=True)

    @override
    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> None:
        exc: Any = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        wrapped = getattr(exc, "reason", None)
        if isinstance(exc, Reject) and isinstance(wrapped, PutBack):
            exc = wrapped  # Task.retry wraps what its publish raised
        if isinstance(exc, PutBack):
            logger.warning("Task %s[%s] goes back to its queue: %s", self.name, self.id, exc.reason)
            state.task_ready(self)
            self.put_back()
            return
        try:
            super().on_failure(exc_info, send_failed_event, return_ok)
        except PutBack as error:
            self.not_recorded(error)

    @override
    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Let a task that was cut by the hard limit run again, without calling it failed while it may still succeed.

        Stock Celery with ``task_acks_on_timeout=False`` requeues the message and records FAILURE, errbacks and a chord
        error all the same (celery#9596). This return is the task's own doing, so it counts towards the delivery limit.
        """
        runs_again = self.task.acks_late and not self.task.acks_on_timeout
        if soft or state.should_terminate or not runs_again:
            try:
                super().on_timeout(soft, timeout)
            except PutBack as error:
                self.not_recorded(error)
            return
        state.task_ready(self)
        logger.error("Hard time limit (%ss) exceeded for %s[%s]: back to its queue", timeout, self.name, self.id)
        self.reject(requeue=True)

    @property
    def store_errors(self) -> bool:
        """Whether a failure or revocation is still to be stored."""
        return not self.recorded and bool(super().store_errors)

    @override
    def maybe_expire(self) -> bool:
        """Tell whether the task has expired.

        Stock Celery also notes its id as revoked: memory that grows with every expired task, and for hours this worker
        would refuse the same id when it is sent again with more time.
        """
        due = self.expires
        return bool(due and datetime.now(timezone.utc if due.tzinfo else None) > due)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        settle_later = getattr(self.message, "settle_expired", None)
        if expired and settle_later is not None:
            self._already_revoked = True
            settle_later(self)
        else:
            self.settle_revoked(reason, terminated, signum, expired)

    def settle_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Store that the task was revoked and acknowledge its message, or put it back; the parameters are Celery's."""
        try:
            super()._announce_revoked(reason, terminated, signum, expired)
        except PutBack as error:
            self._already_revoked = True
            self.not_recorded(error)

    def _success_was_stored(self) -> Any:
        """Say whether a lost child had finished: only if no chord still waits to be told by a second run."""
        meta = super()._success_was_stored()
        if self._context.chord or not meta or meta["status"] != states.SUCCESS:
            return False
        return meta

    def not_recorded(self, error: PutBack) -> None:
        """Put the message back because its final state cannot be stored now."""
        state.task_ready(self)
        logger.warning("State of task %s[%s] cannot be recorded now: %s", self.name, self.id, error.reason)
        self.put_back()


def record(requests: list[Request]) -> list[Request]:
    """Store the state of expired requests, those of one backend with one confirmation.

    Returns:
        Those that may be settled; those whose state cannot be stored now are put back.
    """
    by_backend: dict[Any, list[Request]] = {}
    for request in requests:
        by_backend.setdefault(request.task.backend, []).append(request)
    ready: list[Request] = []
    for backend, batch in by_backend.items():
        contexts = _contexts(batch)
        stored: frozenset[str] = frozenset()
        try:
            if contexts and hasattr(backend, "store_revoked"):
                stored = backend.store_revoked(contexts, "expired")
        except PutBack as error:
            for request in batch:
                request.not_recorded(error) if request.store_errors else ready.append(request)
            continue
        except Exception as error:  # noqa: BLE001 - whatever one message contains, it must not hold the others
            logger.warning("Expired tasks are stored one by one, because they cannot be stored together: %r", error)
        for request in batch:
            request.recorded = request.id in stored
        ready += batch
    return ready


def _contexts(requests: list[Request]) -> dict[str, Any]:
    """Return what is stored of requests, by id; one that cannot be read is left out, and fails when it is settled."""
    found: dict[str, Any] = {}
    for request in requests:
        with suppress(Exception):
            if request.store_errors:
                found[request.id] = request._context
    return found


def mix_in(app: Celery) -> None:
    """Give every task of an application a request class that does what its own and the layer's do.

    The attribute is set on the task and not on its class: tasks of other applications may share that.

    Raises:
        ImproperlyConfigured: a class cannot be combined; the message names its task.
    """
    from holdfast.metrics.request import Request as Ours  # noqa: PLC0415 - it extends the class above

    task: Any  # the stubs know only a dotted name as its Request
    for name, task in app.tasks.items():
        task.Request = mixed(task.Request, Ours, CeleryRequest, f"The Request of task {name!r}")


def _tell_of_own_strategies(app: Celery) -> None:
    """Name the tasks whose messages may arrive without a request of the layer; nothing else shows it."""
    found = sorted(name for name, task in app.tasks.items() if task.Strategy != STRATEGY)
    if found:
        logger.warning(
            "Tasks with a Strategy of their own: %s. What the layer does for a message holds only if that makes its "
            "requests of task.Request, as %s does.",
            ", ".join(found),
            STRATEGY,
        )


def install(app: Celery) -> None:
    """Mix into the requests of ``app`` when its worker starts; a class that cannot be combined ends the process."""

    def check(started: Any) -> None:
        try:
            mix_in(started.app)
            _tell_of_own_strategies(started.app)
        except ImproperlyConfigured as error:
            raise SystemExit(f"holdfast: {error}") from error

    at_start(app, check)

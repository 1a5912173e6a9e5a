"""Results in Redis behind Sentinel that survive a failover: stored means on the disk of each node that could take over.

Choose it with ``result_backend = "holdfast.results:DurableSentinelBackend+sentinel://...;sentinel://..."``. Optional
keys of ``result_backend_transport_options``: ``durable_replicas`` (how many must confirm; by default all that Sentinel
calls up, at least one), ``durable_wait`` (seconds for one confirmation, 1.0), ``durable_patience`` (seconds that a
running task waits for the store, 120; below the broker's consumer timeout).
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from random import uniform
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import get_current_task
from celery.backends.redis import CHORD_PART_RETURN_LUA, SentinelBackend
from celery.canvas import maybe_signature
from celery.exceptions import BackendGetMetaError
from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import AsyncResult, ResultSet
from celery.states import READY_STATES, SUCCESS
from celery.utils.log import get_logger
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeout,
)
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from typing_extensions import override

from holdfast.metrics import numbers
from holdfast.request import PutBack, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis.sentinel import Sentinel

logger = get_logger(__name__)

SHORT = 3.0  # seconds; outside a task nobody may wait longer: the caller is a worker's main loop or a web request
REST = 5.0  # seconds; outside a task a store that was away is not asked again for this long
LOOK = 5.0  # seconds between two questions to Sentinel how many replicas are up; a missing confirmation asks at once
PAUSE = (0.05, 1.0)  # seconds before the first and the later attempts
TRANSIENT = (
    RedisConnectionError,
    RedisTimeout,
    OSError,
    BusyLoadingError,
    ClusterDownError,  # with MasterDownError, its subclass
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
REFUSALS = re.compile(r"\b(NOREPLICAS|MISCONF|UNBLOCKED)\b")  # redis-py has no class for these


class NotReplicated(RedisConnectionError):  # noqa: N818 - it says what happened, as the publisher's errors do
    """The primary took a write, and too few replicas confirmed it in time."""


class _BodyNotSent(BaseException):
    """Passes the ``except Exception`` in which Celery fails a chord whose body it could not publish."""


def _send_body(body: Any, *args: Any) -> Any:
    try:
        return type(body).delay(body, *args)
    except Exception as error:
        if not unavailable(error):
            raise
        raise _BodyNotSent from error


def transient(error: BaseException) -> bool:
    """Say whether a Redis error is one that a failover, a restart or a returning replica ends."""
    return isinstance(error, TRANSIENT) or (isinstance(error, RedisError) and bool(REFUSALS.search(str(error))))


class Patience(Retry):
    """redis-py's retry policy with a deadline instead of a count, for every command of a connection.

    Between two attempts the connection is closed, so that the next one asks the Sentinels who the primary is.

    Args:
        inside: seconds to go on for while a task runs in this thread.
        outside: seconds to go on for everywhere else.
    """

    def __init__(self, inside: float, outside: float) -> None:
        super().__init__(NoBackoff(), retries=0)
        self.inside = inside
        self.outside = outside

    @override
    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        until = monotonic() + (self.inside if get_current_task() else self.outside)
        for failures in count(1):
            try:
                return do()
            except (RedisError, OSError) as error:
                if not transient(error) or (is_retryable and not is_retryable(error)):
                    raise
                fail(error, failures) if with_failure_count else fail(error)
                pause = uniform(0.5, 1) * min(PAUSE[0] * 2**failures, PAUSE[1])  # noqa: S311 - spreads clients in time
                if monotonic() + pause > until:
                    raise
                numbers.store_retried()
                sleep(pause)
        raise AssertionError  # count() has no end


class _AsksAgain:
    """A Sentinel connection that asks who the primary is before each reconnect.

    redis-py asks only when it takes a connection out of its pool. A command that is repeated reconnects to the address
    that failed, for as long as it is repeated: a frozen primary is never left.
    """

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        connection: Any = super()
        if not vars(self)["_sock"]:
            connection.connect()
        connection.send_packed_command(command, check_health)


class SteadyConnection(_AsksAgain, SentinelManagedConnection):
    """A plain connection to the primary."""


class SteadyTLSConnection(_AsksAgain, SentinelManagedSSLConnection):
    """A TLS connection to the primary."""


class DurableSentinelBackend(SentinelBackend):
    """Celery's Sentinel backend that never says a result is stored, or a task failed, when that is not so.

    A final state is written and confirmed by ``WAITAOF`` on one connection before the task's message is acknowledged.
    While the store refuses it, the running task waits; after ``durable_patience`` its message goes back to the queue
    (:class:`holdfast.request.PutBack`). States that are not final (STARTED, RETRY, progress) are news: lost, not fatal.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self._transport_options
        self.replicas = int(options.get("durable_replicas", 0))
        self.wait = float(options.get("durable_wait", 1.0))
        self.patience = Patience(float(options.get("durable_patience", 120)), SHORT)
        self.always_retry = False  # the connection's own policy does it, and knows more errors
        self._down_until = 0.0
        self._up, self._look_at = 1, 0.0
        self._sentinel: Any = None  # a Sentinel, once there is a connection

    @override
    def _get_sentinel_instance(self, **params: Any) -> Sentinel:
        kind = SteadyTLSConnection if "connection_class" in params else SteadyConnection
        sentinel = super()._get_sentinel_instance(**params | {"retry": self.patience, "connection_class": kind})
        for client in sentinel.sentinels:  # redis-py would spend seconds on each Sentinel that is away
            client.set_retry(Retry(NoBackoff(), 0))
        self._sentinel = sentinel
        return sentinel

    def confirmations(self) -> int:
        """Return how many replicas must confirm a write.

        One is not enough: a primary that was silent and comes back while Sentinel replaces it takes writes for seconds,
        and passes them to the replica that is not being promoted. A replica that Sentinel calls down cannot be
        promoted, so nothing waits for it.
        """
        if self.replicas:
            return self.replicas
        if self._sentinel is not None and monotonic() >= self._look_at:
            up = self._sentinel.discover_slaves(self._transport_options["master_name"])
            self._up = len(up) or self._up  # none: nobody answers, or the primary refuses writes anyway
            self._look_at = monotonic() + LOOK
        return self._up

    @override
    def on_task_call(self, producer: object, task_id: str) -> None:
        """Do nothing: publishing a task must not need the result store. ``get`` reads the result when it is asked."""

    # -- writing

    @override
    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a state as Celery does.

        Raises:
            PutBack: a final state could not be stored for good; the task's message must not be acknowledged.
        """
        try:
            with self._store(f"{state} of task {task_id}"):
                answer = super().store_result(task_id, result, state, traceback, request=request, **kwargs)
        except PutBack as error:
            if state in READY_STATES:
                raise
            logger.warning("%s", error.reason)
            return result
        if state in READY_STATES:
            numbers.result_stored()
        return answer

    @override
    def on_chord_part_return(self, request: Any, state: str, result: Any, *args: Any, **kwargs: Any) -> None:
        """Count a finished member of a chord, and send the body after the last one.

        Raises:
            PutBack: the part could not be counted for good, or no broker took the body.
        """
        body: Any = maybe_signature(request.chord, app=self.app)
        request.chord = body
        if body is not None:
            body.delay = partial(_send_body, body)
        try:
            with self._store(f"chord part {request.id}"):
                super().on_chord_part_return(request, state, result, *args, **kwargs)
        except _BodyNotSent as error:
            raise PutBack(f"the chord's body was not accepted: {error.__cause__}") from error.__cause__

    @override
    def set(self, key: bytes, value: bytes, expires: float | None = None, **_: Any) -> None:
        """Write a value and return when it is on enough disks, then tell who waits for it.

        Args:
            key: where.
            value: what.
            expires: seconds; by default ``result_expires``.

        Raises:
            RedisError: not within the patience of the connection.
        """
        seconds = self.expires if expires is None else expires
        self._durable(("SET", key, value, "EX", seconds) if seconds else ("SET", key, value))
        with suppress(RedisError, OSError):  # who misses the news reads the value
            self.client.publish(key, value)

    @override
    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **_: Any
    ) -> Any:
        """Write a state unless SUCCESS is there already; that is written again, because it may not be replicated.

        Stock Celery returns there without writing (its guard against a late FAILURE), so the second attempt after a
        missing replica would confirm nothing.
        """
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = str(task_id)
        key = self.get_key_for_task(task_id)
        if state not in READY_STATES:
            self._tell(key, self.encode(meta))
            return result
        present = self.get(key)
        if present and self.decode(present)["status"] == SUCCESS:
            self.set(key, present)
        else:
            self._set_with_state(key, self.encode(meta), state)
        return result

    def _tell(self, key: bytes, news: bytes) -> None:
        """Write a state that is not final, unless the task has succeeded meanwhile.

        A worker that was frozen calls its task off when it wakes up, and its twin elsewhere may have just ended.
        """

        def write(pipe: Any) -> None:
            present = pipe.get(key)
            pipe.multi()
            if not present or self.decode(present)["status"] != SUCCESS:
                pipe.set(key, news, ex=self.expires or None)

        self.client.transaction(write, key)

    @override
    def _set_chord_key(self, key: bytes, value: Any) -> None:
        """Note what a chord must know of its members, for good: one whose size is lost with a primary never ends."""
        seconds = self.chord_expires
        with self._store(f"size of chord {key!r}") if get_current_task() else nullcontext():
            self._durable(("SET", key, value, "EX", seconds) if seconds else ("SET", key, value))

    @property
    def _chord_part_return_script(self) -> Callable[..., tuple[int, Any, Any, bool]]:
        """Count a finished chord member, durably and with any number of attempts.

        The claim on the chord's body belongs to whoever holds the token, so an attempt whose answer was lost does not
        leave the chord claimed by nobody (celery#3363).
        """

        def count_part(*, keys: list[bytes], args: list[Any], client: object) -> tuple[int, Any, Any, bool]:  # noqa: ARG001 - redis-py calls it so
            token = str(args[-1]).encode()
            part, holder = self._durable(("EVAL", CHORD_PART_RETURN_LUA, len(keys), *keys, *args), ("GET", keys[-1]))
            ready, difference, size, _ = part
            return ready, difference, size, holder == token

        return count_part

    @property
    def _chord_cleanup_script(self) -> Callable[..., Any]:
        """Forget a chord whose body was sent; of one whose body was not, only the claim."""

        def clean(*, keys: list[bytes], args: list[Any], client: Any) -> Any:
            if not isinstance(sys.exc_info()[1], _BodyNotSent):
                return super(DurableSentinelBackend, self)._chord_cleanup_script(keys=keys, args=args, client=client)
            with suppress(RedisError, OSError):  # it expires
                client.delete(keys[0])
            return True

        return clean

    def _durable(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Run commands on one connection and return their answers once the replicas have written them to disk.

        ``WAITAOF`` knows only the writes of its own connection and does not wait inside MULTI, so this is a pipeline
        without a transaction. When the confirmation is missing everything is sent again to whoever is primary then.

        ``WAIT`` comes first for speed alone. A replica that is asked together with the write answers before its fsync,
        and by itself only once a second; asked again after it has received the write, it has the write on disk.
        """
        limit = int(self.wait * 1000)

        def attempt() -> list[Any]:
            with self.client.pipeline(transaction=False) as pipe:
                needed = self.confirmations()
                for command in commands:
                    pipe.execute_command(*command)
                pipe.execute_command("WAIT", needed, limit)
                pipe.execute_command("WAITAOF", 1, needed, limit)
                *answers, _, (local, replicas) = pipe.execute()
            if local < 1 or replicas < needed:
                self._look_at = 0.0
                raise NotReplicated(f"confirmed by {replicas} of {needed} replicas within {self.wait} s")
            return answers

        return self.patience.call_with_retry(attempt, lambda _: self.client.connection_pool.disconnect())

    @contextmanager
    def _store(self, what: str) -> Iterator[None]:
        """Turn a store that stays away into :class:`PutBack`; outside a task the next caller does not wait again."""
        hasty = not get_current_task()
        if hasty and monotonic() < self._down_until:
            raise PutBack(f"{what} cannot be stored: the result store was away a moment ago")
        try:
            yield
        except (RedisError, OSError, SoftTimeLimitExceeded) as error:
            if hasty:
                self._down_until = monotonic() + REST
            raise PutBack(f"{what} cannot be stored: {error!r}") from error

    # -- reading

    @override
    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """Read a state; a worker that would settle a message because of it first makes sure that it is replicated."""
        try:
            meta: dict[str, Any] = super()._get_task_meta_for(task_id)
            if meta["status"] == SUCCESS and self.app.use_fast_trace_task and not get_current_task():
                key = self.get_key_for_task(task_id)
                self.set(key, self.get(key))
        except (RedisError, OSError) as error:
            raise BackendGetMetaError(f"task {task_id}: the result store cannot be read: {error!r}") from error
        return meta


def get(result: AsyncResult[Any] | ResultSet, timeout: float, *, interval: float = 0.5, propagate: bool = True) -> Any:
    """Wait for a result, through failovers, until a deadline.

    ``AsyncResult.get`` waits on a subscription that a failover can end without a word (celery#4857); this asks.

    Args:
        result: of one task, or of a group.
        timeout: seconds until the deadline.
        interval: seconds between two questions at most; the first ones follow faster.
        propagate: raise the task's exception; otherwise it is returned.

    Returns:
        What the task returned; for a group a list in its order.

    Raises:
        celery.exceptions.TimeoutError: there is no result at the deadline.
        Exception: what the task raised.
    """
    return _get(result, monotonic() + timeout, interval, propagate)


def _get(result: Any, until: float, interval: float, propagate: bool) -> Any:
    if isinstance(result, ResultSet):
        return [_get(one, until, interval, propagate) for one in result.results or ()]
    pause, trouble = 0.01, None
    while True:
        try:
            if result.ready():
                return result.get(timeout=0, propagate=propagate, disable_sync_subtasks=False)
        except (BackendGetMetaError, RedisError, OSError) as error:
            trouble = error
        if monotonic() + pause > until:
            why = f"the store said: {trouble}" if trouble else "the task has not ended"
            raise ResultTimeout(f"no result of task {result.id} before the deadline: {why}") from trouble
        sleep(pause)
        pause = min(pause * 1.5, interval)

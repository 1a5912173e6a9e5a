"""The result backend: a state is stored for good, or the task's message is not settled as if it were."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import get_current_task
from celery.exceptions import BackendGetMetaError, TaskRevokedError
from celery.states import READY_STATES, RETRY, REVOKED, STARTED, SUCCESS
from celery.utils.log import get_logger
from celery.utils.time import maybe_iso8601
from kombu.exceptions import DecodeError, EncodeError
from redis.exceptions import RedisError

from holdfast.metrics import numbers
from holdfast.request import PutBack
from holdfast.results.chords import ChordBackend
from holdfast.results.confirm import Confirmation, NotReplicated, advice
from holdfast.results.news import News
from holdfast.results.refusal import Judge, ResultRefused, max_bytes
from holdfast.results.store import Patience, reason, transient
from holdfast.serialization import limit_passes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

logger = get_logger(__name__)

SHORT = 3.0  # seconds; outside a task nobody may wait longer: the caller is a worker's main loop or a web request
REST = 5.0  # seconds; outside a task a store that was away is not asked again for this long
CLAIM = 24 * 3600  # seconds that a claim outlasts the expiry; longer than a notice counts (holdfast.notices.OLD)


class DurableBackend(ChordBackend):
    """Celery's Redis backend that never says a result is stored, or a task failed, when that is not so.

    A final state is written and confirmed on one connection before the task's message is acknowledged. While the store
    is away, the running task waits; after ``durable_patience`` its message goes back to the queue
    (:class:`holdfast.request.PutBack`). What the store will never take makes the task fail
    (:class:`holdfast.results.ResultRefused`). States that are not final (STARTED, RETRY, progress) may be
    lost: a write that fails does not fail the task.

    How the store is reached, and who confirms, is said by a class below: :mod:`holdfast.results.sentinel` and
    :mod:`holdfast.results.endpoint`.
    """

    unsaved: str  # what to do where a server keeps no append-only file

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self._transport_options
        self.wait = float(options.get("durable_wait", 1.0))
        self.patience = Patience(float(options.get("durable_patience", 120)), SHORT)
        self.always_retry = False  # the connection's own policy does it, and knows more errors
        self.max_bytes = max_bytes(self.app.conf)
        self._down_until = 0.0
        self._news = News()

    def confirmation(self) -> Confirmation:
        """Return who must confirm a write."""
        raise NotImplementedError

    def unconfirmed(self) -> None:
        """Take note that a confirmation was missing."""

    def on_task_call(self, producer: object, task_id: str) -> None:
        """Do nothing: publishing a task must not need the result store. ``get`` reads the result when it is asked."""

    # -- writing

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a state as Celery does.

        A failure that the store will never take as it is (its traceback is too large, say) is stored in short.

        Raises:
            PutBack: a final state could not be stored for good; the task's message must not be acknowledged.
            ResultRefused: the store will never take this result, which makes it a failure of the task.
            kombu.exceptions.EncodeError: likewise, the result cannot be serialised.
        """
        try:
            with self._store(f"{state} of task {task_id}"):
                answer = super().store_result(task_id, result, state, traceback, request=request, **kwargs)
        except PutBack as error:
            if state in READY_STATES:
                raise
            logger.warning("%s", error.reason)
            return result
        except EncodeError as refused:
            if state == SUCCESS:
                raise
            if state in READY_STATES:
                self._store_in_short(task_id, result, state, refused)
            else:
                logger.warning("%s", refused)
            return result
        if state in READY_STATES:
            numbers.result_stored()
        return answer

    def _store_in_short(self, task_id: str, result: Any, state: str, refused: EncodeError) -> None:
        """Store a failure without traceback, arguments and the exception's own, or say in the log that none can be."""
        short = result if isinstance(result, ResultRefused) else ResultRefused(f"{type(result).__name__}: {refused}")
        try:
            with self._store(f"{state} of task {task_id}"):
                self._store_result(task_id, self.encode_result(short, state), state)
        except EncodeError as again:
            logger.critical("Task %s ends as %s, and nothing can tell who waits for it: %s", task_id, state, again)

    def set(self, key: bytes, value: bytes, expires: float | None = None, **_: Any) -> None:
        """Write a value and return when it is on enough disks, then tell who waits for it.

        Args:
            key: where.
            value: what.
            expires: seconds; by default ``result_expires``.

        Raises:
            RedisError: not within the patience of the connection.
        """
        self._durable(self._set_command(key, value, expires))
        self._news.tell(self.client, (key, value))

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **_: Any
    ) -> Any:
        """Write a state unless SUCCESS is there already; that is written again, because it may not be replicated.

        Stock Celery returns there without writing (its guard against a late FAILURE), so the second attempt after a
        missing replica would confirm nothing. Nearly always nothing is there, which the write itself finds out: NX
        saves the question. An attempt that finds a value has written nothing that it could wait for.
        """
        key = self.get_key_for_task(task_id)
        value = self._value(task_id, result, state, traceback, request)
        if state not in READY_STATES:
            self._tell(key, value)
            return result
        if self._durable((*self._set_command(key, value), "NX"))[0]:
            self._news.tell(self.client, (key, value))
            return result
        present = self.get(key)
        if present and self.decode(present)["status"] == SUCCESS:
            self.set(key, present)
        else:
            self._set_with_state(key, value, state)
        return result

    def store_revoked(self, contexts: Mapping[str, Any], why: str, unstarted: bool = False) -> frozenset[str]:
        """Store for many tasks that they were revoked, with one confirmation of the replicas.

        Args:
            contexts: the request of each task, by task id.
            why: the reason.
            unstarted: leave out those whose stored state says that the attempt has begun, or that the task has ended.

        Returns:
            The ids whose state is stored for good. What the store does not take in this way is left to
            :meth:`store_result`.

        Raises:
            PutBack: the store is away; no message may be acknowledged.
        """
        result = self.encode_result(TaskRevokedError(why), REVOKED)
        values: dict[str, tuple[bytes, Any]] = {}
        with suppress(EncodeError), self._store(f"{REVOKED} of {len(contexts)} tasks"):
            present = dict(zip(contexts, self.mget([self.get_key_for_task(one) for one in contexts]), strict=True))
            for task_id, context in contexts.items():
                with suppress(EncodeError, DecodeError):
                    value = self._value(task_id, result, REVOKED, None, context)
                    kept = present[task_id]
                    meta = self.decode(kept) if kept else {}
                    if meta and unstarted and _began(meta, context):
                        continue
                    if meta.get("status") == SUCCESS:
                        value = kept  # written again: it may not be replicated
                    values[task_id] = self.get_key_for_task(task_id), value
            for some in _portions(values.values(), self.max_bytes):
                self._durable(*(self._set_command(key, value) for key, value in some))
                self._news.tell(self.client, *some)
            numbers.result_stored(len(values))
            return frozenset(values)
        return frozenset()

    # -- tasks that expire: holdfast.notices

    def claim_start(self, context: Any) -> None:
        """Note for good that a task starts.

        Args:
            context: the task's request.

        Raises:
            PutBack: the task was reported as expired, or the store is away. It must not run.
        """
        with self._store(f"start of task {context.id}"):
            claimed = self._claim([context], b"started")
        if not claimed:
            raise PutBack("it was reported as expired")

    def revoke_unstarted(self, contexts: list[Any], why: str) -> frozenset[str]:
        """Store for many tasks that they were revoked, unless a worker has started them.

        A worker that claims nothing (one of an earlier release, say) shows only in the states that it stores.

        Args:
            contexts: the request of each task.
            why: the reason.

        Returns:
            The ids whose state is stored for good.

        Raises:
            PutBack: the store is away.
        """
        with self._store(f"expiry of {len(contexts)} tasks"):
            claimed = self._claim(contexts, b"expired")
        by_id = {context.id: context for context in claimed}
        return self.store_revoked(by_id, why, unstarted=True) if claimed else frozenset()

    def _claim(self, contexts: list[Any], what: bytes) -> list[Any]:
        """Write what becomes of tasks where nothing is written yet; return those of which it is so, for good."""
        commands: list[tuple[Any, ...]] = []
        for context in contexts:
            # another attempt, or the same task sent again with more time, is another decision
            key = self.get_key_for_task(f"{context.id}.{context.retries}.{context.expires}")
            left = (maybe_iso8601(context.expires) - datetime.now(timezone.utc)).total_seconds()
            life = CLAIM + max(0, int(left))
            # EXPIRE writes in any case: a repetition that finds its own claim would wait for nothing
            commands += [("SET", key, what, "NX", "EX", life), ("EXPIRE", key, life), ("GET", key)]
        found = self._durable(*commands)[2::3]
        return [context for context, claimed in zip(contexts, found, strict=True) if claimed == what]

    def _value(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> Any:
        """Return what is stored of a task.

        Raises:
            EncodeError: it cannot be serialised, or is too large.
        """
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = str(task_id)
        return self._checked(self.encode(meta))

    def _set_command(self, key: bytes, value: Any, expires: float | None = None) -> tuple[Any, ...]:
        seconds = self.expires if expires is None else expires
        return ("SET", key, value, "EX", seconds) if seconds else ("SET", key, value)

    def _checked(self, value: Any) -> Any:
        """Return a value that may be sent.

        Raises:
            ResultRefused: it is larger than ``holdfast_result_max_bytes``.
        """
        if _size(value) > self.max_bytes:
            raise ResultRefused(
                f"it has {_size(value)} bytes, {self.max_bytes} are allowed; return a reference to the data, or raise "
                "holdfast_result_max_bytes, and with it maxmemory"
            )
        return value

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

    def ensure(self, fun: Callable[..., Any], args: Any, **_: Any) -> Any:
        """Call ``fun`` once: its commands are repeated by the connection's own policy, and not 20 times by Celery's."""
        return fun(*args)

    def _durable(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Run commands on one connection and return their answers once the write is confirmed.

        The server confirms the writes of the asking connection alone, and does not wait inside MULTI, so this is a
        pipeline without a transaction. When the confirmation is missing everything is sent again to whoever is primary
        then.
        """
        judge = Judge(self.client, max(_size(self._checked(value)) for command in commands for value in command))

        def attempt() -> list[Any]:
            with self.client.pipeline(transaction=False) as pipe:
                needed = self.confirmation()
                for command in commands:
                    pipe.execute_command(*command)
                needed.ask(pipe, int(self.wait * 1000))
                try:
                    answers = pipe.execute()
                except RedisError as error:
                    judge.look(error)
                    raise
            missing = needed.missing(answers)
            if missing:
                self.unconfirmed()
                raise NotReplicated(f"{missing} within {self.wait} s")
            return list(answers[: len(commands)])

        def leave(_error: Exception) -> None:
            self.client.connection_pool.disconnect()
            self._news.forget()

        done: list[Any] = self.patience.call_with_retry(attempt, leave)
        return done

    @contextmanager
    def _store(self, what: str) -> Iterator[None]:
        """Turn a store that stays away into :class:`PutBack`, and a refusal into :class:`ResultRefused`.

        Outside a task the next caller does not wait again for a store that was away.
        """
        hasty = not get_current_task()
        if hasty and monotonic() < self._down_until:
            raise PutBack(f"{what} cannot be stored: the result store was down a moment ago")
        try:
            with limit_passes():
                yield
        except (RedisError, OSError, SoftTimeLimitExceeded) as error:
            if isinstance(error, RedisError) and not transient(error):
                raise ResultRefused(
                    f"{what} can never be stored: {reason(error)}{advice(error, self.unsaved)}"
                ) from error
            if hasty:
                self._down_until = monotonic() + REST
            raise PutBack(f"{what} cannot be stored: {reason(error)}") from error
        except ResultRefused as refused:
            raise ResultRefused(f"{what} can never be stored: {refused}") from refused
        except DecodeError as error:
            raise ResultRefused(f"{what} can never be stored, what is stored is not a state: {error}") from error

    # -- reading

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """Read a state; a worker that would settle a message because of it first makes sure that it is replicated."""
        try:
            meta: dict[str, Any] = super()._get_task_meta_for(task_id)
            if meta["status"] == SUCCESS and self.app.use_fast_trace_task and not get_current_task():
                key = self.get_key_for_task(task_id)
                self.set(key, self.get(key))
        except (RedisError, OSError, EncodeError) as error:
            raise BackendGetMetaError(f"task {task_id}: the result store cannot be read: {reason(error)}") from error
        return meta


def _began(meta: Mapping[str, Any], context: Any) -> bool:
    """Tell whether a stored state is of this attempt or a later one, or of the task's end.

    Args:
        meta: what is stored.
        context: the request of the attempt.
    """
    status = meta["status"]
    if status == REVOKED:  # written again: it may not be replicated
        return False
    unnamed = 0 if status in (STARTED, RETRY) else -1  # without result_extended no state names its attempt
    return status in READY_STATES or (meta.get("retries", unnamed) or 0) >= (context.retries or 0)


def _portions(pairs: Iterable[tuple[bytes, Any]], limit: int) -> Iterator[list[tuple[bytes, Any]]]:
    """Cut keys and values into portions whose values have no more bytes together than one may have."""
    some: list[tuple[bytes, Any]] = []
    size = 0
    for key, value in pairs:
        if some and size + _size(value) > limit:
            yield some
            some, size = [], 0
        some.append((key, value))
        size += _size(value)
    if some:
        yield some


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (bytes, str)) else 0

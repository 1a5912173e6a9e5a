"""Waiting for a result through failovers."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from celery.exceptions import BackendGetMetaError
from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import ResultSet
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from celery.result import AsyncResult


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

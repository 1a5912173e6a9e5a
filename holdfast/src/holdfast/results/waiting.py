"""Waiting for a result through failovers."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from celery.exceptions import BackendGetMetaError
from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import ResultSet
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from celery.result import AsyncResult


def get(result: AsyncResult[Any] | ResultSet, timeout: float, *, interval: float = 0.5, propagate: bool = True) -> Any:
    """Wait for a result, through failovers, until a deadline.

    ``AsyncResult.get`` waits on a subscription that a failover can end silently (celery#4857); this one polls.

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
    step = waiting(result, monotonic() + timeout, interval, propagate)
    while True:
        ended, value = ask(step)
        if ended:
            return value
        sleep(value)


def waiting(result: Any, until: float, interval: float, propagate: bool) -> Generator[float, None, Any]:
    """Ask for a result until it is there; whoever waits decides how.

    Args:
        result: as for :func:`get`, and so are ``interval`` and ``propagate``.
        until: the deadline, as a ``time.monotonic()`` value.

    Returns:
        A generator that yields the seconds to wait before its next step, and returns what :func:`get` returns.
    """
    if isinstance(result, ResultSet):
        values = []
        for one in result.results or ():
            value = yield from waiting(one, until, interval, propagate)
            values.append(value)
        return values
    pause, trouble = 0.01, None
    while True:
        ended: list[Any] = []
        try:
            if result.ready():
                ended = [one for one in (_line(result) if propagate else [result]) if one.ready()]
        except (BackendGetMetaError, RedisError, OSError) as error:
            trouble = error
        if ended:  # outside the try: what a task raised, though it were an OSError, is no trouble with the store
            values = [
                one.get(timeout=0, propagate=propagate, follow_parents=False, disable_sync_subtasks=False)
                for one in ended  # each has kept what the store said
            ]
            return values[-1]
        if monotonic() + pause > until:
            why = f"the store said: {trouble}" if trouble else "the task has not ended"
            raise ResultTimeout(f"no result of task {result.id} before the deadline: {why}") from trouble
        yield pause
        pause = min(pause * 1.5, interval)


def _line(result: Any) -> Iterator[Any]:
    """Yield the results of the tasks before a result, the first one first, then the result itself."""
    if result.parent is not None:
        yield from _line(result.parent)
    if isinstance(result, ResultSet):
        for one in result.results or ():
            yield from _line(one)
    else:
        yield result


def ask(step: Generator[float, None, Any]) -> tuple[bool, Any]:
    """Make one step of :func:`waiting`; return whether it ended, and its result or the seconds to wait."""
    try:
        return False, next(step)
    except StopIteration as end:
        return True, end.value

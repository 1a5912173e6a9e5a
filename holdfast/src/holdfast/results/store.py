"""Talking to a Redis primary: how long a command is repeated, and behind Sentinel which node a repetition asks."""

from __future__ import annotations

import re
from contextvars import ContextVar
from itertools import count
from random import uniform
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
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

from holdfast.metrics import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE = (0.05, 1.0)  # seconds before the first and the later attempts
TRANSIENT = (
    RedisConnectionError,  # with a refused login: it concerns every task, and ends when the password is right again
    RedisTimeout,
    OSError,
    BusyLoadingError,
    ClusterDownError,  # with MasterDownError, its subclass
    OutOfMemoryError,  # as long as the value can fit at all, see holdfast.results.refusal
    ReadOnlyError,
    TryAgainError,
)
# redis-py has no class for these; the last one is WAITAOF on a primary that was demoted in between
PASSING = re.compile(r"\b(NOREPLICAS|MISCONF|UNBLOCKED|BUSY)\b|cannot be used with replica instances")

_repeated: ContextVar[bool] = ContextVar("holdfast_repeated", default=False)


def transient(error: BaseException) -> bool:
    """Say whether a Redis error is one that a failover, a restart or a returning replica ends."""
    return isinstance(error, TRANSIENT) or (isinstance(error, RedisError) and bool(PASSING.search(str(error))))


def reason(error: BaseException) -> str:
    """Return the kind and the words of an error; the ``repr`` of redis-py's errors has no words of the server."""
    return f"{type(error).__name__}: {error}"


class Patience(Retry):
    """redis-py's retry policy with a deadline instead of a count, for every command of a connection.

    Between two attempts the connection is closed, so that the next one asks the Sentinels who the primary is. Inside
    of something that is repeated as a whole a command is tried once: one deadline holds, not one in the other.

    Args:
        inside: seconds to go on for while a task runs in this thread.
        outside: seconds to go on for everywhere else.
    """

    def __init__(self, inside: float, outside: float) -> None:
        super().__init__(NoBackoff(), retries=0)
        self.inside = inside
        self.outside = outside

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """Call ``do`` until it succeeds, fails for good, or the time is over; ``fail`` runs after each failure."""
        nested = _repeated.get()
        until = monotonic() + (self.inside if get_current_task() else self.outside)
        token = _repeated.set(True)
        try:
            for failures in count(1):
                try:
                    return do()
                except (RedisError, OSError) as error:
                    if not transient(error) or (is_retryable and not is_retryable(error)):
                        raise
                    fail(error, failures) if with_failure_count else fail(error)
                    pause = uniform(0.5, 1) * min(PAUSE[0] * 2**failures, PAUSE[1])  # noqa: S311 - spreads clients in time
                    if nested or monotonic() + pause > until:
                        raise
                    numbers.store_retried()
                    sleep(pause)
        finally:
            _repeated.reset(token)
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

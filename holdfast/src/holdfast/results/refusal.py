"""Tells a value that Redis will never take from an outage, so that no task is repeated for ever because of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.exceptions import EncodeError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError

from holdfast.publisher.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

SMALLEST_LIMIT = 1024 * 1024  # bytes; Redis allows neither proto-max-bulk-len nor client-query-buffer-limit below it
CUTS = 3  # times that a primary that answers a PING ends the connection at a value, until the value is to blame


class ResultRefused(EncodeError):  # noqa: N818 - it says what happened, as the publisher's errors do
    """The result store will never take this value: too large, not allowed, not serialisable.

    Celery handles an ``EncodeError`` of a result as the failure of its task, and this is one.
    """


def max_bytes(settings: Mapping[str, Any]) -> int:
    """Return how large a stored value may be, in bytes: ``holdfast_result_max_bytes``.

    By default the limit of a message (``holdfast_publish_max_bytes``): a chain or a chord passes results on as the
    arguments of the next message, so a larger one could not travel.

    Args:
        settings: the Celery configuration.

    Raises:
        ValueError: it is not a positive number.
    """
    found = settings.get("holdfast_result_max_bytes")
    if found is None:
        return int(Policy.value(settings, "max_bytes"))
    if isinstance(found, bool) or not isinstance(found, int) or found <= 0:
        raise ValueError(
            f"holdfast_result_max_bytes is {found!r}; set a whole number of bytes above 0, or leave it out for the "
            "limit of a message, holdfast_publish_max_bytes"
        )
    return found


class Judge:
    """Says from how the attempts of one write end whether it can succeed at all.

    Args:
        client: a client of the primary.
        size: of the largest value in the write, in bytes.
    """

    def __init__(self, client: Any, size: int) -> None:
        self._client = client
        self._size = size
        self._cuts = 0

    def look(self, error: RedisError) -> None:
        """Look at a failed attempt.

        Raises:
            ResultRefused: no attempt can succeed.
        """
        if isinstance(error, OutOfMemoryError):
            room = self._room()
            if room is not None and self._size > room:
                raise ResultRefused(
                    f"{self._size} bytes do not fit into Redis, which has room for {room} bytes when it is empty "
                    "(maxmemory); pass a reference to the data, or raise maxmemory"
                ) from error
        # an exact type: its subclasses say more, for instance that there is no primary
        elif type(error) is RedisConnectionError and self._size >= SMALLEST_LIMIT and self._answers():
            self._cuts += 1
            if self._cuts == CUTS:
                raise ResultRefused(
                    f"Redis answers, and ended the connection {CUTS} times at a value of {self._size} bytes, as it "
                    "does above proto-max-bulk-len and client-query-buffer-limit; pass a reference to the data, or "
                    "raise them"
                ) from error

    def _room(self) -> int | None:
        """Return how many bytes an empty Redis has for data; None without a limit, or when it does not say."""
        try:
            memory = self._client.info("memory")
        except (RedisError, OSError):
            return None
        if not memory.get("maxmemory"):
            return None
        return int(memory["maxmemory"] - memory["used_memory_startup"] - memory.get("mem_replication_backlog", 0))

    def _answers(self) -> bool:
        try:
            return bool(self._client.ping())
        except (RedisError, OSError):
            return False

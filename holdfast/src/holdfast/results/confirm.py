"""Who must confirm a write before it counts as stored, and how the server is asked for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a server answers that has no WAITAOF or keeps no append-only file
_UNABLE = re.compile(r"\((WAIT|WAITAOF) .*(unknown command|appendonly is disabled)", re.DOTALL | re.IGNORECASE)


class NotReplicated(RedisConnectionError):  # noqa: N818 - it says what happened, as the publisher's errors do
    """The primary took a write, and it was not confirmed in time."""


class Confirmation(NamedTuple):
    """What a write needs to count as stored.

    Attributes:
        replicas: how many must confirm it.
        fsync: each of them, and the primary, has it on disk; without this, the replicas have it in memory.
    """

    replicas: int
    fsync: bool = True

    def ask(self, pipe: Any, limit: int) -> None:
        """Add the question to a pipeline that has no transaction, after the writes.

        ``WAIT`` comes first for speed alone. A replica that is asked together with the write answers before its fsync,
        and by itself only once a second; asked again after it has received the write, it has the write on disk.

        Args:
            pipe: a pipeline of redis-py.
            limit: milliseconds that the server waits for the replicas.
        """
        pipe.execute_command("WAIT", self.replicas, limit)
        if self.fsync:
            pipe.execute_command("WAITAOF", 1, self.replicas, limit)

    def missing(self, answers: Sequence[Any]) -> str | None:
        """Say from the answers of the pipeline what is missing, None when the write is confirmed."""
        local, replicas = answers[-1] if self.fsync else (1, answers[-1])
        if local >= 1 and replicas >= self.replicas:
            return None
        return f"confirmed by {replicas} of {self.replicas} replicas"


def advice(error: Exception, unsaved: str) -> str:
    """Return what to do when a server can never confirm what it is asked for; an empty text for another error.

    Args:
        error: what the server said.
        unsaved: what to do where it keeps no append-only file, or has no ``WAITAOF``.
    """
    found = _UNABLE.search(str(error))
    if not found:
        return ""
    return (
        f"; {unsaved}" if found[1].upper() == "WAITAOF" else "; durable results need Redis or Valkey, which know WAIT"
    )

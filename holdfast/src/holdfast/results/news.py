"""Tells who waits for a result that it is there, and waits for no answer: nothing depends on one."""

from __future__ import annotations

import os
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

SILENCE = 1.0  # seconds without an answer after which a connection counts as dead; a live server takes milliseconds


class News:
    """Publishes on connections of its own, whose answers are read before the next news.

    As many connections are kept as publish at the same time. The pool does not count them: a worker whose tasks are
    greenlets would use it up.
    """

    def __init__(self) -> None:
        self._idle: list[_Line] = []
        self._age = 0  # rises when all connections so far are to be closed

    def tell(self, client: Any, *values: tuple[Any, Any]) -> None:
        """Publish values. A client that misses one reads it from the store.

        Args:
            client: of the primary.
            values: of each the channel where those who wait listen, and what they wait for.
        """
        commands = [("PUBLISH", *value) for value in values]
        for _ in range(2):  # the primary may have changed since the last one
            line = self._take(client.connection_pool)
            try:
                line.send(commands)
            except (RedisError, OSError):
                line.close()
            else:
                self._give_back(line)
                return

    def forget(self) -> None:
        """Close the connections: the primary is another one, or does not answer."""
        self._age += 1
        idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _take(self, pool: Any) -> _Line:
        """Return a connection that nobody else uses meanwhile."""
        while self._idle:
            with suppress(IndexError):  # another thread has taken the last one
                line = self._idle.pop()
                if line.owner == (os.getpid(), pool):
                    return line
                line.close()  # of the parent of this process, which goes on with its own, or of an earlier client
        return _Line(pool, self._age)

    def _give_back(self, line: _Line) -> None:
        if line.age == self._age:
            self._idle.append(line)
        else:
            line.close()


class _Line:
    """A connection, and how many answers it has not read."""

    def __init__(self, pool: Any, age: int) -> None:
        self.owner = os.getpid(), pool  # a forked child must not write to the connection of its parent
        self.age = age
        self._connection = pool.connection_class(**pool.connection_kwargs)
        self._connection.retry = Retry(NoBackoff(), 0)  # the patience that results deserve is not for news
        self._unread, self._since = 0, 0.0

    def send(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send commands, and read what has been answered so far.

        Raises:
            RedisError: the connection is dead.
            OSError: likewise.
        """
        connection = self._connection
        while connection.can_read():
            if not self._unread:
                raise RedisConnectionError("the server has closed the connection, or says what nobody asked")
            self._unread, self._since = self._unread - 1, monotonic()
            with suppress(ResponseError):
                connection.read_response()
        if self._unread and monotonic() - self._since > SILENCE:
            raise RedisConnectionError("the server does not answer")
        connection.send_packed_command(connection.pack_commands(commands))
        self._unread, self._since = self._unread + len(commands), self._since if self._unread else monotonic()

    def close(self) -> None:
        """Close the connection; in a child of the process that made it, for the child alone."""
        with suppress(RedisError, OSError):
            self._connection.disconnect()

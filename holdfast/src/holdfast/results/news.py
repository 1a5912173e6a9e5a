"""Tells who waits for a result that it is there, and waits for no answer: nothing depends on one."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry


class News:
    """A connection of each thread that publishes news; answers are read before the next one."""

    def __init__(self) -> None:
        self._here = threading.local()

    def tell(self, client: Any, *values: tuple[Any, Any]) -> None:
        """Publish values. A client that misses one reads it from the store.

        Args:
            client: of the primary.
            values: of each the channel where those who wait listen, and what they wait for.
        """
        commands = [("PUBLISH", *value) for value in values]
        here = self._place(client.connection_pool)
        for _ in range(2):  # the primary may have changed since the last one
            connection = here["connection"]
            try:
                while connection.can_read():
                    if not here["unread"]:
                        raise RedisConnectionError("the server has closed the connection, or says what nobody asked")
                    here["unread"] -= 1
                    with suppress(ResponseError):
                        connection.read_response()
                connection.send_packed_command(connection.pack_commands(commands))
                here["unread"] += len(commands)
            except (RedisError, OSError):
                here["unread"] = 0
                connection.disconnect()
            else:
                return

    def _place(self, pool: Any) -> dict[str, Any]:
        """Return the connection of this thread, and how many answers it has not read."""
        here = vars(self._here)
        owner = os.getpid(), pool
        if here.get("owner") != owner:  # a forked child must not write to the connection of its parent
            connection = pool.make_connection()
            connection.retry = Retry(NoBackoff(), 0)  # the patience that results deserve is not for news
            here.update(owner=owner, connection=connection, unread=0)
        return here

"""The Redis broker that is left: where kombu 5's redis transport keeps messages, and how they are claimed there.

A message that is being moved is in a list of this module's own on the same Redis, ``holdfast.moving:<key>``. It gets
there in one atomic step and leaves it after RabbitMQ's confirm, so that at no instant it is only in a process's memory.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kombu import Connection
from kombu.utils.json import loads
from redis import Redis
from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HOLDING = "holdfast.moving:"
UNACKED = f"{HOLDING}unacked"
LOCK = "holdfast.moving.lock"
LEASE = 30.0  # seconds that a killed run keeps others out
PATIENT = {"socket_timeout": 15, "socket_connect_timeout": 5, "socket_keepalive": True}  # kombu waits for ever
RETRIES: dict[str, Any] = {"max_retries": 3, "interval_start": 1, "interval_step": 1}  # seconds between attempts

TAKE = """
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then return false end
redis.call('LPUSH', KEYS[3], entry)
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return entry
"""  # what a worker holds, unless it has acknowledged it or has given it back meanwhile


@dataclass(frozen=True)
class Spot:
    """A list of messages: one priority of a queue."""

    queue: str
    priority: int
    key: str
    length: int


@dataclass(frozen=True)
class Held:
    """A message in a list of :data:`HOLDING`.

    Attributes:
        key: the list.
        raw: as kombu wrote it; what a worker held is ``[message, exchange, routing key]``.
        queue: where it waited; None for what a worker held.
    """

    key: str
    raw: bytes
    queue: str | None


class OldBroker:
    """A connection to it, through kombu's own transport: URLs, Sentinel, TLS and options are as in the application.

    Args:
        url: as in ``broker_url``.
        options: as in ``broker_transport_options``.

    Raises:
        kombu.exceptions.OperationalError: it cannot be reached.
        redis.exceptions.RedisError: it refuses the login.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._connection = Connection(url, transport_options={**PATIENT, **options})
        self._connection.ensure_connection(**RETRIES)
        channel: Any = self._connection.default_channel
        self._redis: Any = Redis(connection_pool=channel.pool)  # kombu's own client prefixes some commands only
        self._database = str(channel.pool.connection_kwargs["db"])
        self._prefix, self._sep = channel.global_keyprefix, channel.sep
        self._unacked, self._index = self._key(channel.unacked_key), self._key(channel.unacked_index_key)

    def close(self) -> None:
        """Close the connection."""
        self._connection.release()

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _scan(self, name: str, kind: str) -> Iterator[str]:
        """Yield the keys of a type whose names begin like this, without the prefix, each once."""
        begin = re.sub(r"([\\*?\[\]^])", r"\\\1", self._key(name))
        for key in set(self._redis.scan_iter(f"{begin}*", count=1000, _type=kind)):
            yield key.decode().removeprefix(self._prefix)

    # -- looking

    def bindings(self) -> dict[str, list[tuple[str, str, str]]]:
        """Return routing key, pattern and queue of every binding, by exchange; remote control is left out."""
        found = {}
        for name in self._scan("_kombu.binding.", "set"):
            exchange = name.removeprefix("_kombu.binding.")
            members = (member.decode().split(self._sep) for member in self._redis.smembers(self._key(name)))
            if not exchange.endswith(".pidbox"):
                found[exchange] = [(key, pattern, queue) for key, pattern, queue in members]
        return found

    def waiting(self) -> list[Spot]:
        """Return the lists that hold tasks, in the order in which a worker takes them: by priority.

        That is every list of a queue that is bound, and a list of another name when a task lies in it.
        """
        bound = {queue for table in self.bindings().values() for _, _, queue in table}
        spots = []
        for name in self._scan("", "list"):
            queue, sep, step = name.rpartition(self._sep)
            queue, priority = (queue, int(step)) if sep and step.isdigit() else (name, 0)
            if not name.startswith(HOLDING) and (queue in bound or self._is_task(name)):
                spots.append(Spot(queue, priority, name, self._redis.llen(self._key(name))))
        return sorted((spot for spot in spots if spot.length), key=lambda spot: (spot.priority, spot.queue))

    def _is_task(self, name: str) -> bool:
        try:
            return "task" in loads((self._redis.lindex(self._key(name), -1) or b"").decode())["headers"]
        except (LookupError, TypeError, ValueError):
            return False  # another program's list, or a result of the backend rpc://

    def unacked(self) -> Iterator[tuple[str, bytes]]:
        """Yield tag and entry of what workers hold."""
        for tag, raw in self._redis.hscan_iter(self._unacked, count=500):
            yield tag.decode(), raw

    def workers(self) -> list[str] | None:
        """Return the addresses of those who wait for messages of this database; None when the login may not ask."""
        try:
            clients = self._redis.client_list()
        except ResponseError:
            return None
        return [one["addr"] for one in clients if one["cmd"] == "brpop" and one["db"] == self._database]

    def held(self) -> list[Held]:
        """Return what a run has claimed and not settled, oldest first."""
        found = []
        for key in sorted(self._scan(HOLDING, "list")):
            name = key.removeprefix(HOLDING).rpartition(self._sep)
            queue = None if key == UNACKED else name[0] or name[2]
            found += [Held(key, raw, queue) for raw in reversed(self._redis.lrange(self._key(key), 0, -1))]
        return found

    # -- moving

    @contextmanager
    def alone(self) -> Iterator[Any]:
        """Keep other runs out; gives the lock, which lives for :data:`LEASE` seconds unless it is extended.

        Raises:
            redis.exceptions.LockError: another run is at work.
        """
        with self._redis.lock(self._key(LOCK), timeout=LEASE, blocking_timeout=LEASE + 1, thread_local=False) as lock:
            yield lock

    def claim(self, spot: Spot, count: int) -> list[Held]:
        """Claim at most so many messages of a list, the next one first."""
        holding = f"{HOLDING}{spot.key}"
        with self._redis.pipeline(transaction=False) as pipe:
            for _ in range(min(count, spot.length)):
                pipe.rpoplpush(self._key(spot.key), self._key(holding))  # LMOVE is not in Redis before 6.2
            return [Held(holding, raw, spot.queue) for raw in pipe.execute() if raw is not None]

    def take(self, tags: Iterable[str]) -> list[Held]:
        """Claim what workers held."""
        with self._redis.pipeline(transaction=False) as pipe:
            for tag in tags:
                pipe.eval(TAKE, 3, self._unacked, self._index, self._key(UNACKED), tag)
            return [Held(UNACKED, raw, None) for raw in pipe.execute() if raw is not None]

    def settle(self, done: Sequence[Held]) -> None:
        """Drop messages that the new broker has."""
        with self._redis.pipeline(transaction=False) as pipe:
            for one in done:
                pipe.lrem(self._key(one.key), -1, one.raw)  # the oldest first
            pipe.execute()

"""The nodes of one cluster, and the links to them that are open in this process."""

from __future__ import annotations

import os
import random
import threading
import weakref
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError
from kombu.connection import failover_strategies  # type: ignore[attr-defined]  # missing in the stubs

from holdfast.publisher import transport
from holdfast.publisher.guard import Guard
from holdfast.publisher.link import Link, Pending, classify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kombu import Connection

    from holdfast.publisher.message import Wire
    from holdfast.publisher.policy import Limits


DEPTH = 8  # publishes of one thread that may interrupt each other; each depth opens connections of its own


class _Depth(threading.local):
    """How many publishes of this thread are under way; more than one when a signal handler or ``__del__`` publishes."""

    value = 0


class _Links:
    """The links of all publishes at the same depth. A thread that is inside one of them never comes back to it."""

    def __init__(self, nodes: int) -> None:
        self.shared: list[Link | None] = [None] * nodes
        self.opening = [Guard() for _ in range(nodes)]
        self.spare: list[Link | None] = [None] * nodes
        self.alone = [Guard() for _ in range(nodes)]

    def __iter__(self) -> Iterator[Link]:
        return (link for link in (*self.shared, *self.spare) if link is not None)


class Nodes:
    """Opens at most one shared link per node and depth, when it is needed, and prefers the node that served last.

    Args:
        connection: a kombu connection with all nodes in its URL; it is never connected itself.
        timeout: seconds for each step of opening a link.

    Attributes:
        depth: of this thread; a publish sets its ``value`` one higher and, when it ends, back to what it was.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        transport.register()  # a declaration must end, too
        options = connection.transport_options or {}
        named = {"connection_name": "holdfast publisher", **options.get("client_properties", {})}
        connection = connection.clone(transport_options={**options, "client_properties": named})
        self._connections = [_one(connection, url) for url in connection.alt] or [connection]
        self._timeout = timeout
        self.depth = _Depth()
        self._levels: dict[int, _Links] = {}
        in_order = connection.failover_strategy is failover_strategies["round-robin"]
        # otherwise every process would start at the first URL and load that node with all publishers
        self._first = 0 if in_order else random.randrange(len(self._connections))  # noqa: S311 - spreading load
        _all.add(self)

    def pick(self, turn: int) -> int:
        """Return the number of the node to ask: the preferred one, or the one ``turn`` places after it."""
        return (self._first + turn) % len(self._connections)

    def avoid(self, node: int) -> None:
        """Stop preferring a node that failed; the next one is preferred from now on."""
        if self._first == node:
            self._first = (node + 1) % len(self._connections)

    def link(self, node: int, limits: Limits) -> Link:
        """Return the shared link to a node, opening it if there is none.

        Args:
            node: as returned by :meth:`pick`.
            limits: when to stop waiting, for the node or for another thread that is opening the link.

        Raises:
            Unreachable: the node cannot be used.
            TimedOut: another thread is still trying.
        """
        level = self._level()
        link = level.shared[node]
        if link is not None and link.dead is None:
            return link
        return level.opening[node].run(lambda: self._usable(level.shared, node, limits), limits.until)

    def opened(self) -> Link | None:
        """Return the shared link to the preferred node, if it is open already."""
        link = self._level().shared[self.pick(0)]
        return link if link is not None and link.dead is None else None

    def publish_alone(self, node: int, wire: Wire, limits: Limits) -> None:
        """Publish a message on a link with nothing else under way: if the channel is closed, it was this message.

        Args:
            node: as returned by :meth:`pick`.
            wire: the message.
            limits: when to stop waiting.

        Raises:
            NotAcknowledged: the kind says why.
        """
        level = self._level()
        pending = Pending(wire)

        def publish() -> None:
            link = self._usable(level.spare, node, limits)
            link.submit([pending], limits.until)
            link.wait(pending, limits)

        level.alone[node].run(publish, limits.until)
        if pending.error is not None:
            raise pending.error

    def declare(self, node: int, entities: Iterable[Any], limits: Limits) -> None:
        """Declare exchanges and queues, on a connection of their own.

        Args:
            node: as returned by :meth:`pick`.
            entities: kombu exchanges and queues.
            limits: when to stop waiting.

        Raises:
            NotAcknowledged: the kind says why it failed.
        """
        connection = self._connections[node].clone(connect_timeout=self._timeout)
        try:
            raw: Any = connection.transport.establish_connection()
            try:
                with transport.bounded(raw, limits.until):
                    for entity in entities:
                        entity(raw.channel()).declare()
                    raw.close()
            finally:
                raw.collect()
        except (OSError, AMQPError) as exc:
            raise classify(exc) from exc

    def close(self) -> None:
        """Close every link in good order."""
        for link in self._drop():
            link.close()

    def forget(self) -> None:
        """Start anew in a forked child: the parent's links stay the parent's, its locks may be held for ever."""
        for link in self._drop():
            with suppress(OSError):
                link.forget()

    def _drop(self) -> list[Link]:
        levels, self._levels = self._levels, {}
        return [link for level in levels.values() for link in level]

    def _level(self) -> _Links:
        depth = max(1, self.depth.value)
        found = self._levels.get(depth)
        return found or self._levels.setdefault(depth, _Links(len(self._connections)))

    def _usable(self, links: list[Link | None], node: int, limits: Limits) -> Link:
        link = links[node]
        if link is None or link.dead is not None:
            link = links[node] = self._open(node, limits)
        return link

    def _open(self, node: int, limits: Limits) -> Link:
        connection = self._connections[node].clone()  # another depth may be opening a link at the same moment
        return Link(connection, max(0.1, min(self._timeout, limits.until - monotonic())))


def _one(connection: Connection, url: str) -> Connection:
    """Return a connection like the given one to a single node."""
    single = connection.clone(alternates=[])
    single.switch(url)
    return single


def _forget_all() -> None:
    for nodes in list(_all):
        nodes.forget()


_all: weakref.WeakSet[Nodes] = weakref.WeakSet()
os.register_at_fork(after_in_child=_forget_all)

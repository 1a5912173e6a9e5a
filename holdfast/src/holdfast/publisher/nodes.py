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
from holdfast.publisher.errors import TimedOut
from holdfast.publisher.link import Link, Pending, classify

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kombu import Connection

    from holdfast.publisher.message import Wire
    from holdfast.publisher.policy import Limits


class Nodes:
    """Opens at most one shared link per node, when it is needed, and prefers the node that served last.

    Args:
        connection: a kombu connection with all nodes in its URL; it is never connected itself.
        timeout: seconds for each step of opening a link.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        transport.register()  # a declaration must end, too
        options = connection.transport_options or {}
        named = {"connection_name": "holdfast publisher", **options.get("client_properties", {})}
        connection = connection.clone(transport_options={**options, "client_properties": named})
        self._connections = [_one(connection, url) for url in connection.alt] or [connection]
        self._timeout = timeout
        self._links: list[Link | None]
        self._locks: list[threading.Lock]
        self._spare: Link | None
        self._alone: threading.Lock
        in_order = connection.failover_strategy is failover_strategies["round-robin"]
        # otherwise every process would start at the first URL and load that node with all publishers
        self._first = 0 if in_order else random.randrange(len(self._connections))  # noqa: S311 - spreading load
        self._reset()
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
        link = self._links[node]
        if link is not None and link.dead is None:
            return link
        with _held(self._locks[node], limits):
            link = self._links[node]
            if link is None or link.dead is not None:
                link = self._links[node] = self._open(node, limits)
            return link

    def publish_alone(self, node: int, wire: Wire, limits: Limits) -> None:
        """Publish a message on a link with nothing else under way: if the channel is closed, it was this message.

        Args:
            node: as returned by :meth:`pick`.
            wire: the message.
            limits: when to stop waiting.

        Raises:
            NotAcknowledged: the kind says why.
        """
        with _held(self._alone, limits):
            if self._spare is None or self._spare.dead is not None:
                self._spare = self._open(node, limits)
            pending = Pending(wire)
            self._spare.submit([pending])
            self._spare.wait(pending, limits)
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
            with transport.bounded(raw, limits.until):
                for entity in entities:
                    entity(raw.channel()).declare()
                raw.close()
        except (OSError, AMQPError) as exc:
            raise classify(exc) from exc

    def close(self) -> None:
        """Close every link in good order."""
        for link in (*self._links, self._spare):
            if link is not None:
                link.close()
        self._reset()

    def forget(self) -> None:
        """Start anew in a forked child: the parent's links stay the parent's, its locks may be held for ever."""
        for link in (*self._links, self._spare):
            if link is not None:
                with suppress(OSError):
                    link.forget()
        self._reset()

    def _reset(self) -> None:
        self._links = [None] * len(self._connections)
        self._locks = [threading.Lock() for _ in self._connections]
        self._spare = None
        self._alone = threading.Lock()

    def _open(self, node: int, limits: Limits) -> Link:
        return Link(self._connections[node], max(0.1, min(self._timeout, limits.until - monotonic())))


class _held:  # noqa: N801 - reads as a word in a with statement
    """A lock held for a block, and not waited for longer than an attempt may take."""

    def __init__(self, lock: threading.Lock, limits: Limits) -> None:
        self._lock = lock
        self._until = limits.until

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=max(0.0, self._until - monotonic())):
            raise TimedOut("another thread is still waiting for the node")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


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

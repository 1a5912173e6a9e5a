"""kombu's AMQP transport with an end to every wait: the connections that Celery opens beside the publisher's own.

py-amqp waits for the answer to ``close``, ``open``, ``declare`` and ``confirm.select`` without a limit, so kombu's
failover hangs in closing the channel of a frozen node and never tries the next one (kombu/connection.py, ``switch``).
A node that ends the handshake with an error of AMQP is passed by as well, where kombu would look no further.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import amqp
from amqp import spec
from amqp.exceptions import AMQPError, MessageNacked, RecoverableConnectionError
from amqp.transport import SSLTransport as TLSSocket
from kombu import transport
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from holdfast.publisher.confirms import Confirms, OutOfOrderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANSWER = 15.0  # seconds for a synchronous answer; a declaration may wait for the election of a leader
CLOSE = 2.0  # seconds for the answer to a close: it decides nothing any more
CONFIRM = 10.0  # seconds for a confirm when the caller names no limit
_CLOSING = (spec.Channel.CloseOk, spec.Connection.CloseOk)


@contextmanager
def bounded(connection: Connection, until: float) -> Iterator[None]:
    """Limit every wait on a connection inside the block.

    Args:
        connection: one of this module's connections.
        until: ``time.monotonic()`` value after which :class:`TimeoutError` is raised.
    """
    outer, connection.until = connection.until, min(connection.until, until)
    try:
        yield
    finally:
        connection.until = outer


class _Bounded:
    """Gives :meth:`wait` of py-amqp's channels and connections a limit for the whole wait, not for each frame."""

    connection: Any

    def wait(
        self,
        method: Any,
        callback: Callable[..., object] | None = None,
        timeout: float | None = None,
        returns_tuple: bool = False,
    ) -> Any:
        """Wait for a method of the broker, as py-amqp does, but never for ever.

        Raises:
            TimeoutError: no answer in time; kombu takes it for a lost connection.
        """
        connection = self.connection
        limit = timeout or (CLOSE if method in _CLOSING else ANSWER)
        if connection is None:
            raise RecoverableConnectionError("connection already closed")
        with bounded(connection, monotonic() + limit):
            return super().wait(method, callback=callback, returns_tuple=returns_tuple)  # type: ignore[misc]  # mixin


class Channel(_Bounded, pyamqp.Channel):
    """A channel whose confirms count only for the message whose delivery tag they carry."""

    events: Any
    _basic_publish: Any
    _confirm_selected: bool
    _confirms: Confirms[list[bool]]

    def basic_publish_confirm(self, msg: Any, exchange: str = "", routing_key: str = "", **options: Any) -> None:
        """Publish and wait for the confirm of this message; used when ``confirm_publish`` is set.

        Args:
            msg: a py-amqp message.
            exchange: its name.
            routing_key: the message's key.
            options: those of py-amqp's ``basic_publish``; ``confirm_timeout`` limits the wait, in seconds.

        Raises:
            MessageNacked: the broker refused the message.
            TimeoutError: no confirm in time. As after any other error the connection is dropped, because a late
                answer would be taken for the answer to the next message.
        """
        limit = options.pop("confirm_timeout", None) or options.get("timeout") or CONFIRM
        connection: Any = self.connection
        if connection is None:
            raise RecoverableConnectionError("basic_publish: connection closed")
        try:
            if not self._confirm_selected:
                self._select_confirms()
            acked: list[bool] = []
            self._confirms.publish(acked)
            self._basic_publish(msg, exchange, routing_key, **options)
            end = monotonic() + limit
            while not acked:
                connection.drain_events(timeout=max(0.001, end - monotonic()))
        except BaseException:
            connection.collect()
            raise
        if not acked[0]:
            raise MessageNacked

    def _select_confirms(self) -> None:
        self._confirms = Confirms()
        self.confirm_select()
        self._confirm_selected = True
        self.events["basic_ack"].add(lambda tag, multiple: self._settle(tag, multiple, ack=True))
        self.events["basic_nack"].add(lambda tag, multiple: self._settle(tag, multiple, ack=False))

    def _settle(self, tag: int, multiple: bool, *, ack: bool) -> None:
        try:
            for acked, _ in self._confirms.settle(tag, multiple=bool(multiple)):
                acked.append(ack)
        except OutOfOrderError as exc:
            raise RecoverableConnectionError(str(exc)) from exc


class Connection(_Bounded, pyamqp.Connection):
    """A connection on which no wait for an answer is endless and no write is either."""

    Channel = Channel
    channels: Any
    until = math.inf  # time.monotonic() value at which the current wait ends

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("write_timeout", ANSWER)
        super().__init__(*args, **options)

    def connect(self, callback: Callable[[], object] | None = None) -> Any:
        """Connect as py-amqp does.

        A broker whose disk was full goes on listening and knows no user any more: it refuses every login with 403,
        which kombu takes for the caller's mistake, so it would not try the next node.

        Raises:
            RecoverableConnectionError: the node refused; kombu goes on to the next one.
        """
        try:
            return super().connect(callback)
        except AMQPError as error:
            self.collect()
            raise RecoverableConnectionError(f"{self.host} refused the connection: {error}") from error

    def collect(self) -> None:
        """Close the socket at once, as py-amqp does.

        A signal handler that raises (a soft time limit) may have left a channel half made. py-amqp lists a channel
        before it gives it its attributes, and would fail on it here, in place of what the handler raised.
        """
        for number, channel in list((self.channels or {}).items()):
            if isinstance(channel, amqp.Channel) and not hasattr(channel, "no_ack_consumers"):
                del self.channels[number]
        super().collect()

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Read one frame, within ``timeout`` seconds and within the wait that it belongs to."""
        left = self.until - monotonic()
        if left <= 0:
            raise TimeoutError("no answer from the broker in time")
        if left < math.inf:
            timeout = left if timeout is None else min(timeout, left)
        return super().blocking_read(timeout)


class _Socket(TLSSocket):
    """A TLS socket whose waits end where those of a plain one end.

    py-amqp leaves the handshake's time limit on every later read, and on closing it waits for the peer's farewell,
    which a frozen node never sends. AMQP has a farewell of its own before that.
    """

    sock: Any

    def _setup_transport(self) -> None:
        super()._setup_transport()  # type: ignore[misc]  # missing in the stubs
        self.sock.settimeout(None)

    def _shutdown_transport(self) -> None:
        """Leave without the farewell; the caller closes the socket."""


class TLSConnection(Connection):
    """Such a connection over TLS."""

    def Transport(self, host: str, connect_timeout: float | None, *args: Any, **options: Any) -> TLSSocket:  # noqa: N802 - py-amqp's name
        """Return the socket's wrapper; py-amqp calls this to connect."""
        named = dict(zip(("ssl", "read_timeout", "write_timeout"), args, strict=False))
        return _Socket(host, connect_timeout, **named, **options)


class Transport(pyamqp.Transport):
    """The ``amqp`` transport."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    """The ``amqps`` transport."""

    Connection = TLSConnection

    def establish_connection(self) -> Any:
        """Connect, and compare the certificate with the address of this node.

        kombu writes the first node's address into the options that all nodes share, so that after a failover every
        other node's certificate would be refused.
        """
        client: Any = self.client
        if isinstance(client.ssl, dict):
            client.ssl = client.ssl | {"server_hostname": None}
        return super().establish_connection()


def register() -> None:
    """Let kombu use these classes for ``amqp://`` and ``amqps://`` URLs in this process.

    The aliases are replaced, not a connection's ``transport`` argument: failover takes the transport from the scheme of
    the next URL and would fall back to the stock one (kombu/connection.py, ``switch``).
    """
    cache: dict[str, type] = vars(transport)["_transport_cache"]
    for alias, cls in (("amqp", Transport), ("pyamqp", Transport), ("amqps", SSLTransport)):
        TRANSPORT_ALIASES[alias] = f"{__name__}:{cls.__name__}"
        cache.pop(alias, None)

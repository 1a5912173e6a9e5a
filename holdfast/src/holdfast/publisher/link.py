"""One connection to one node, shared by every thread that publishes: callers share a window of unanswered messages.

There is no background thread. Whoever waits for an answer and finds nobody reading reads for all; the others sleep
until their message is settled or until it is their turn to read. Every wait ends at the caller's deadline, writes
included: the socket never blocks. A link on which anything was left in doubt is given up and never used again.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections import deque
from contextlib import suppress
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any

import amqp
from amqp.exceptions import AMQPError, error_for_code
from amqp.exceptions import ChannelError as AMQPChannelError

from holdfast.publisher.confirms import Confirms, OutOfOrderError
from holdfast.publisher.errors import (
    Blocked,
    Disconnected,
    Nacked,
    NotAcknowledged,
    Refused,
    TimedOut,
    Unreachable,
    Unroutable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kombu import Connection

    from holdfast.publisher.message import Wire
    from holdfast.publisher.policy import Limits

_HEADER = Struct(">BHI")  # frame type, channel, payload size
_ANSWER = Struct(">4sQB")  # class and method, delivery tag, multiple
_ACK, _NACK = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
_SLICE = 0.05  # seconds the reader sleeps at most, so that it notices bytes that another thread could not write
_CHUNK = 65536  # bytes read at once
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Suspected(Disconnected):
    """The broker closed the channel because of one of several messages and did not say which."""


class Pending:
    """A message on its way, and its outcome once there is one."""

    __slots__ = ("done", "error", "wake", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.done = False
        self.error: NotAcknowledged | None = None
        self.wake: threading.Lock | None = None

    def settle(self, error: NotAcknowledged | None) -> None:
        """Record the outcome and wake the thread that waits for it."""
        self.error = error
        self.done = True
        self.rouse()

    def rouse(self) -> bool:
        """Wake the waiting thread, if there is one."""
        wake, self.wake = self.wake, None
        if wake:
            wake.release()
        return wake is not None


class _Channel(amqp.Channel):
    """A channel that stays closed when the broker closes it; py-amqp would open it again under the same number."""

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        raise error_for_code(reply_code, reply_text, (class_id, method_id), AMQPChannelError)


class Link:
    """A confirmed channel of its own connection.

    Args:
        connection: describes the node; a connection of its own is opened from it.
        timeout: seconds for each step of opening: TCP, TLS, handshake, channel.

    Raises:
        Unreachable: that did not succeed.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Pending] = deque()  # not yet given to the channel
        self._confirms: Confirms[Pending] = Confirms()
        self._out = bytearray()  # given to the channel, not yet to the socket
        self._inbound = bytearray()
        self._parked: deque[Pending] = deque()
        self._reading = False
        self._blocked = False
        self.dead: NotAcknowledged | None = None
        try:
            self._open(connection, timeout)
        except (OSError, AMQPError) as exc:
            raise Unreachable(f"{connection.as_uri()} cannot be used: {exc!r}") from exc

    def _open(self, connection: Connection, timeout: float) -> None:
        connection.connect_timeout = timeout
        self._amqp: Any = connection.transport.establish_connection()
        try:
            self._sock: socket.socket = self._amqp.transport.sock
            self._sock.settimeout(timeout)
            channel: Any = _Channel(self._amqp)
            channel.open()
            channel.confirm_select()
            channel.events["basic_return"].add(self._on_return)
            self._amqp.on_blocked = lambda _reason: self._set_blocked(True)
            self._amqp.on_unblocked = lambda: self._set_blocked(False)
            self._sock.settimeout(0)
        except BaseException:
            self._amqp.collect()
            raise
        self._frame_max: int = self._amqp.frame_max
        self._poller = select.poll()
        self._poller.register(self._sock, select.POLLIN)

    # -- what callers do

    def submit(self, batch: Iterable[Pending]) -> None:
        """Hand messages to the broker without waiting for their answers.

        Args:
            batch: the messages; those that the link cannot take any more are settled at once.
        """
        with self._lock:
            self._queue.extend(batch)
            self._advance(read=not self._reading)

    def wait(self, pending: Pending, limits: Limits) -> None:
        """Wait until a message is settled; without an answer in time the link is given up.

        Args:
            pending: a message given to :meth:`submit`.
            limits: when to stop waiting.
        """
        while not pending.done:
            until = limits.end if self._blocked else limits.until
            left = until - monotonic()
            if left <= 0:
                self.give_up()
                return
            with self._lock:
                lead = not self._reading and not pending.done
                if lead:
                    self._reading = True
                elif not pending.done:
                    wake = pending.wake = threading.Lock()
                    wake.acquire()
                    self._parked.append(pending)
            if lead:
                self._read_for_all(pending, until)
            elif not pending.done:
                try:
                    wake.acquire(timeout=left)
                except BaseException:  # a signal handler raised: the turn to read may have just come, and would be lost
                    self._hand_over()
                    raise

    def give_up(self) -> None:
        """Stop using this link because an answer is overdue; everything unanswered is settled as unknown."""
        with self._lock:
            if self._blocked:
                self._fail(Blocked("the broker blocks publishers (memory or disk alarm); free memory or disk there"))
            else:
                self._fail(TimedOut("no answer within the deadline"))

    def close(self, timeout: float = 1.0) -> None:
        """Close in good order, for the end of the process.

        Args:
            timeout: seconds to wait for the broker's agreement.
        """
        with self._lock:
            if self.dead is None and self._amqp.transport:
                with suppress(OSError, AMQPError):
                    self._sock.settimeout(timeout)
                    self._amqp.close()
            self._fail(Disconnected("the publisher was closed"))

    def forget(self) -> None:
        """Drop the inherited socket in a forked child without a word to the broker: the parent still uses it."""
        socket.close(self._sock.detach())

    # -- under the lock

    def _advance(self, *, read: bool) -> None:
        """Read what is there, write what fits; the only place where errors of socket and protocol are handled."""
        try:
            if self.dead is None:
                if read:
                    self._receive()
                self._flush()
        except (OSError, AMQPError, OutOfOrderError) as exc:
            self._fail(classify(exc))
        except BaseException:  # a signal handler raised (soft time limit, Ctrl-C) in the middle of a frame
            self._fail(Disconnected("publishing was interrupted"))
            raise
        else:
            if self.dead is not None:
                self._fail(self.dead)

    def _flush(self) -> None:
        while self._queue and not self._blocked:
            pending = self._queue.popleft()
            self._confirms.publish(pending, pending.wire.key)
            self._out += pending.wire.frames(self._frame_max)
        while self._out:
            try:
                sent = self._sock.send(self._out)
            except _WOULD_BLOCK:
                return
            del self._out[:sent]

    def _receive(self) -> None:
        while True:
            try:
                chunk = self._sock.recv(_CHUNK)
            except _WOULD_BLOCK:
                return
            if not chunk:
                raise ConnectionResetError("the broker closed the connection")
            self._inbound += chunk
            self._dispatch()

    def _dispatch(self) -> None:
        data, start = self._inbound, 0
        while len(data) - start >= 8:
            kind, channel, size = _HEADER.unpack_from(data, start)
            end = start + 7 + size
            if len(data) <= end:
                break
            method = bytes(data[start + 7 : start + 11])
            if kind == 1 and method in {_ACK, _NACK}:
                _, tag, bits = _ANSWER.unpack_from(data, start + 7)
                self._on_answer(tag, multiple=bool(bits & 1), nack=method == _NACK)
            else:
                self._amqp.on_inbound_frame((kind, channel, bytes(data[start + 7 : end])))
            start = end + 1
        del data[:start]

    def _on_answer(self, tag: int, *, multiple: bool, nack: bool) -> None:
        for pending, returned in self._confirms.settle(tag, multiple=multiple):
            if nack:
                pending.settle(Nacked("the broker refused it (queue full, or no majority of its members)"))
            elif returned:
                wire = pending.wire
                pending.settle(
                    Unroutable(f"no queue is bound to exchange {wire.exchange!r} for key {wire.routing_key!r}")
                )
            else:
                pending.settle(None)

    def _on_return(self, _exc: Exception, exchange: str, routing_key: str, message: amqp.Message) -> None:
        self._confirms.unroutable((exchange, routing_key, message.properties.get("correlation_id")))

    def _set_blocked(self, blocked: bool) -> None:
        self._blocked = blocked

    def _fail(self, error: NotAcknowledged) -> None:
        """End the link: what was given to the channel may have arrived, what still queued here has not."""
        if self.dead is None:
            self.dead = error
            self._amqp.collect()
        sent = self._confirms.abandon()
        verdict = type(error) if error.retryable or len(sent) == 1 else Suspected
        for pending in sent:
            pending.settle(verdict(error.detail, maybe_published=verdict.retryable))
        innocent = type(error) if error.retryable else Disconnected
        while self._queue:
            self._queue.popleft().settle(innocent(error.detail))

    # -- the thread that reads

    def _read_for_all(self, pending: Pending, until: float) -> None:
        try:
            while not pending.done and (left := until - monotonic()) > 0:
                self._poller.modify(self._sock, select.POLLIN | (select.POLLOUT if self._out else 0))
                self._poller.poll(min(left, _SLICE) * 1000)
                with self._lock:
                    self._advance(read=True)
        except (OSError, ValueError):  # the socket was closed under poll: give_up() in another thread
            self.give_up()
        finally:
            self._reading = False
            self._hand_over()

    def _hand_over(self) -> None:
        """Let the next waiting thread read."""
        with self._lock:
            while self._parked and not self._parked.popleft().rouse():
                pass


def classify(exc: Exception) -> NotAcknowledged:
    """Translate what ended the link."""
    code = getattr(exc, "reply_code", None)
    text = getattr(exc, "reply_text", None) or repr(exc)
    match code:
        case 404:
            return Unroutable(f"the broker closed the channel: {text}")
        case 403 | 406:
            return Refused(f"the broker closed the channel: {text}")
        case 320 | 541:
            return Unreachable(f"the node cannot serve: {text}")
        case _:
            return Disconnected(f"the connection ended: {text}")

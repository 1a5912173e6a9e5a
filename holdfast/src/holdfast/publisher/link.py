"""One connection to one node, shared by every thread that publishes: callers share a window of unanswered messages.

There is no background thread. One of the threads that wait for answers reads for all; the others sleep until their
message is settled or until it is their turn to read. Every wait ends at the caller's deadline, writes included: the
socket never blocks. A link on which anything was left in doubt is given up and never used again.

A signal handler may run, and may raise, between any two steps of a call. So whatever a call takes (the lock, the turn
to read) is given back by a test of what it holds, not by a note that it took it; and every message gets a verdict.
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
from holdfast.publisher.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kombu import Connection

    from holdfast.publisher.message import Wire
    from holdfast.publisher.policy import Limits

_HEADER = Struct(">BHI")  # frame type, channel, payload size
_ANSWER = Struct(">4sQB")  # class and method, delivery tag, multiple
_ACK, _NACK = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
_SLICE = 0.05  # seconds the reader sleeps at most, so that it notices bytes that another thread could not write
_NAP = 1.0  # seconds for which a waiting thread sleeps at most, in case the one that would wake it was interrupted
_CHUNK = 65536  # bytes read at once
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Suspected(Disconnected):
    """The broker closed the channel because of one of several messages and did not say which."""


class Pending:
    """A message on its way, and its outcome once there is one.

    Attributes:
        done: True once the outcome is known.
        error: the outcome; None when a broker acknowledged the message.
        failed_at: when it failed, as a ``time.monotonic()`` value.
    """

    __slots__ = ("done", "error", "failed_at", "wake", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.done = False
        self.error: NotAcknowledged | None = None
        self.failed_at = 0.0
        self.wake: threading.Lock | None = None

    def settle(self, error: NotAcknowledged | None) -> None:
        """Record the outcome and wake the thread that waits for it."""
        self.error = error
        if error is not None:
            self.failed_at = monotonic()
        self.done = True
        self.rouse()

    def rouse(self) -> bool:
        """Wake the waiting thread, if there is one."""
        wake = self.wake
        if wake is None:
            return False
        with suppress(RuntimeError):  # two threads wake it at the same time
            wake.release()
        self.wake = None
        return True


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
        self._guard = Guard()
        self._queue: deque[Pending] = deque()  # not yet given to the channel
        self._confirms: Confirms[Pending] = Confirms()
        self._out = bytearray()  # given to the channel, not yet to the socket
        self._inbound = bytearray()
        self._parked: deque[Pending] = deque()
        self._leader: Pending | None = None  # its thread reads for all
        self._blocked = False
        self._closed = False
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

    # -- what callers do

    def submit(self, batch: Sequence[Pending], until: float) -> None:
        """Hand messages to the broker without waiting for their answers.

        Args:
            batch: the messages; those that the link cannot take any more are settled at once.
            until: ``time.monotonic()`` value after which they are settled as not sent.
        """

        def send() -> None:
            self._queue.extend(batch)
            self._advance(read=self._leader is None)

        try:
            self._guard.run(send, until)
        except TimedOut as busy:
            for pending in batch:
                pending.settle(busy)

    def wait(self, pending: Pending, limits: Limits) -> None:
        """Wait until a message is settled; without an answer in time the link is given up.

        Args:
            pending: a message given to :meth:`submit`.
            limits: when to stop waiting.
        """
        while not pending.done:
            until = limits.end if self._blocked else limits.until
            if monotonic() >= until:
                self.give_up()
                if not pending.done:  # another thread is held up in the middle of a step
                    pending.settle(self._overdue(maybe_published=True))
                return
            try:
                self._take_turn(pending, until)
            except BaseException:  # a signal handler raised: the turn to read may have just come, and would be lost
                self._hand_over()
                raise
            finally:
                if self._leader is pending:
                    self._leader = None
                    self._hand_over()

    def give_up(self) -> None:
        """Stop using this link because an answer is overdue; everything unanswered is settled as unknown."""
        error = self._overdue()
        try:
            self._guard.run(lambda: self._fail(error), monotonic() + _SLICE)
        except TimedOut:
            self.dead = self.dead or error  # the thread that uses the link does the rest

    def close(self, timeout: float = 1.0) -> None:
        """Close in good order, for the end of the process.

        Args:
            timeout: seconds to wait for the broker's agreement.
        """

        def part() -> None:
            if self.dead is None and self._amqp.transport:
                with suppress(OSError, AMQPError):
                    self._sock.settimeout(timeout)
                    self._amqp.close()
            self._fail(Disconnected("the publisher was closed"))

        with suppress(TimedOut):
            self._guard.run(part, monotonic() + timeout)

    def forget(self) -> None:
        """Drop the inherited socket in a forked child without telling the broker: the parent still uses it.

        A fork in a signal handler returns into the interrupted call in the child, too; that call finds the link dead.
        """
        self.dead = Disconnected("the process was forked meanwhile")
        socket.close(self._sock.detach())

    # -- one thread at a time

    def _take_place(self, pending: Pending) -> None:
        """Let the thread of a message read for all if nobody does, else put it in the queue of those that wait."""
        if self.dead is not None:
            self._fail(self.dead)
            if not pending.done:  # it got lost when a signal handler raised in the middle of a step
                pending.settle(Disconnected(self.dead.detail, maybe_published=True))
        elif not pending.done and self._leader is None:
            self._leader = pending
        elif not pending.done:
            pending.wake = threading.Lock()
            pending.wake.acquire()
            self._parked.append(pending)
            if self._leader is None:  # it has left meanwhile
                pending.rouse()

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
            pending = self._queue[0]
            frames = pending.wire.frames(self._frame_max)
            self._confirms.publish(pending, pending.wire.key)
            self._queue.popleft()
            self._out += frames
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
        self.dead = self.dead or error
        if not self._closed:
            self._closed = True
            self._amqp.collect()
        sent = self._confirms.abandon()
        verdict = type(error) if error.retryable or len(sent) == 1 else Suspected
        for pending in sent:
            pending.settle(verdict(error.detail, maybe_published=verdict.retryable))
        innocent = type(error) if error.retryable else Disconnected
        while self._queue:
            pending = self._queue.popleft()
            if not pending.done:  # else the step that hands it to the channel was interrupted
                pending.settle(innocent(error.detail))
        while self._parked:
            self._parked.popleft().rouse()

    def _overdue(self, *, maybe_published: bool = False) -> NotAcknowledged:
        if self._blocked:
            text = "the broker blocks publishers (memory or disk alarm); free memory or disk there"
            return Blocked(text, maybe_published=maybe_published)
        return TimedOut("no answer within the deadline", maybe_published=maybe_published)

    # -- the thread that reads

    def _take_turn(self, pending: Pending, until: float) -> None:
        """Read for all until a message is settled, or sleep until it is or the turn comes; may return early."""
        with suppress(TimedOut):
            self._guard.run(lambda: self._take_place(pending), until)
        wake = pending.wake
        if self._leader is pending:
            self._read_for_all(pending, until)
        elif wake is not None:
            wake.acquire(timeout=max(0.0, min(_NAP, until - monotonic())))

    def _read_for_all(self, pending: Pending, until: float) -> None:
        def step() -> None:
            self._advance(read=True)

        try:
            while not pending.done and (left := until - monotonic()) > 0:
                _ready(self._sock, min(left, _SLICE), write=bool(self._out))
                self._guard.run(step, until)
        except TimedOut:
            return
        except (OSError, ValueError):  # the socket was closed meanwhile: give_up() in another thread
            self.give_up()

    def _hand_over(self) -> None:
        """Let the next waiting thread read; without the lock, for one that takes its place looks for a reader again."""
        with suppress(IndexError):
            while not self._parked.popleft().rouse():
                pass


def _ready(sock: socket.socket, seconds: float, *, write: bool) -> None:
    """Wait until a socket can be read, or written as well; the functions are looked up late, for monkey patches."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(sock, select.POLLIN | (select.POLLOUT if write else 0))
        poller.poll(seconds * 1000)
    else:  # eventlet takes poll away; its select has no highest descriptor
        select.select([sock], [sock] if write else [], [], seconds)


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

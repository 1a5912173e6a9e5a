"""Links and retries against a scripted peer, which answers as a broker may, in orders that no test can ask one for."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import replace
from struct import pack, unpack
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import amqp.channel
import pytest
from amqp.exceptions import RecoverableConnectionError
from amqp.serialization import dumps
from billiard.exceptions import SoftTimeLimitExceeded
from kombu import Connection, Producer, Queue
from kombu.exceptions import OperationalError

from holdfast.publisher import (
    Blocked,
    Message,
    Nacked,
    NotAcknowledged,
    Policy,
    Publisher,
    Refused,
    TimedOut,
    Unreachable,
    Unroutable,
    transport,
)
from holdfast.publisher.link import Link
from holdfast.publisher.message import Wire
from holdfast.publisher.nodes import DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

# nothing is slow there but the machine
PATIENT = Policy(deadline=30.0, attempt=10.0, connect=10.0, backoff=0.02, backoff_max=0.1)


class Session:
    """One connection that a publisher opened."""

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.peer = peer
        self.sock = sock
        self.published: list[str] = []

    def send(self, channel: int, cls: int, method: int, form: str = "", args: tuple[object, ...] = ()) -> None:
        payload = pack(">HH", cls, method) + (dumps(form, args) if form else b"")
        self.frame(1, channel, payload)

    def frame(self, kind: int, channel: int, payload: bytes) -> None:
        self.sock.sendall(pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.send(1, 60, 80, "Lb", (tag, multiple))

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        self.send(1, 60, 120, "Lb", (tag, multiple))

    def give_back(self, tag: int) -> None:
        properties = dumps("s", (self.published[tag - 1],))
        self.send(1, 60, 50, "Bsss", (312, "NO_ROUTE", "tasks", "default"))
        self.frame(2, 1, pack(">HHQH", 60, 0, 2, 0x0400) + properties)
        self.frame(3, 1, b"[]")

    def close_channel(self, code: int, text: str) -> None:
        self.send(1, 20, 40, "BsBB", (code, text, 60, 40))

    def close_connection(self, code: int, text: str) -> None:
        self.send(0, 10, 50, "BsBB", (code, text, 0, 0))

    def block(self) -> None:
        self.send(0, 10, 60, "s", ("low on disk",))

    def unblock(self) -> None:
        self.send(0, 10, 61)

    def tune(self) -> None:
        if self.peer.knows_nobody:
            self.close_connection(403, "ACCESS_REFUSED - Login was refused")
        else:
            self.send(0, 10, 30, "BlB", (10, 131072, 0))

    def serve(self) -> None:
        self.sock.recv(8)
        start = (0, 9, {"capabilities": {"connection.blocked": True}}, "PLAIN", "en_US")
        self.send(0, 10, 10, "ooFSS", start)
        replies: dict[tuple[int, int], Callable[[], None]] = {
            (10, 11): self.tune,
            (10, 40): lambda: self.send(0, 10, 41, "s", ("",)),
            (10, 50): lambda: self.send(0, 10, 51),
            (20, 10): lambda: self.send(1, 20, 11, "S", ("",)),
            (85, 10): lambda: self.send(1, 85, 11),
        }
        file = self.sock.makefile("rb")
        while header := file.read(7):
            kind, _, size = unpack(">BHI", header)
            payload = file.read(size + 1)[:-1]
            if kind == 1:
                replies.get(unpack(">HH", payload[:4]), lambda: None)()
            elif kind == 2:
                tail = payload.rpartition(b"id-")[2]
                self.published.append("id-" + tail.split(b"\0", 1)[0].decode())
                self.peer.script(self, len(self.published))


class Peer:
    """Listens on a port; ``script(session, tag)`` is called for each message."""

    def __init__(self, script: Callable[[Session, int], None], tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.sessions: list[Session] = []
        self.deaf = False  # whether further connections get no greeting
        self.knows_nobody = False  # whether further logins are refused
        self.server = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.getsockname()[1])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = self.server.accept()[0]
                session = Session(self, self.tls.wrap_socket(sock, server_side=True) if self.tls else sock)
                self.sessions.append(session)
                if not self.deaf:
                    threading.Thread(target=self._serve, args=(session,), daemon=True).start()

    @staticmethod
    def _serve(session: Session) -> None:
        with contextlib.suppress(OSError, ValueError):
            session.serve()

    @property
    def published(self) -> list[str]:
        """Ids of all copies, over all connections."""
        return [task for session in self.sessions for task in session.published]


@contextlib.contextmanager
def peers(*scripts: Callable[[Session, int], None], policy: Policy = PATIENT) -> Iterator[tuple[Publisher, list[Peer]]]:
    """A publisher to one scripted node for each script."""
    nodes = [Peer(script) for script in scripts]
    url = ";".join(f"amqp://u:p@127.0.0.1:{node.port}//" for node in nodes)
    publisher = Publisher(Connection(url, failover_strategy="round-robin"), policy)
    try:
        yield publisher, nodes
    finally:
        publisher.close()
        for node in nodes:
            node.server.close()


def message(number: int = 1) -> Message:
    task_id = f"id-{number:04}"
    properties = {"delivery_mode": 2, "correlation_id": task_id, "reply_to": ""}
    return Message("tasks", "default", b"[]", "application/json", "utf-8", {"task": "t"}, properties)


def at_once(publisher: Publisher, count: int) -> dict[int, NotAcknowledged | None]:
    """Publish from as many threads at the same time; return how each ended."""
    found: dict[int, NotAcknowledged | None] = {}

    def publish(number: int) -> None:
        try:
            publisher.publish(message(number))
            found[number] = None
        except NotAcknowledged as error:
            found[number] = error

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(1, count + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def ack(session: Session, tag: int) -> None:
    session.ack(tag)


def silent(_session: Session, _tag: int) -> None:
    pass


def test_answers_in_reverse_order_reach_their_callers() -> None:
    def script(session: Session, tag: int) -> None:
        if tag == 10:
            for late in range(10, 0, -1):
                session.nack(late) if session.published[late - 1] == "id-0003" else session.ack(late)
        elif tag > 10:
            session.ack(tag)

    with peers(script) as (publisher, (peer,)):
        assert at_once(publisher, 10) == dict.fromkeys(range(1, 11))
        assert peer.published.count("id-0003") == 2, "the refused one, and it alone, was sent again"
        assert len(peer.published) == 11


def test_one_answer_for_many() -> None:
    def script(session: Session, tag: int) -> None:
        if tag == 20:
            session.ack(20, multiple=True)

    with peers(script) as (publisher, (peer,)):
        assert at_once(publisher, 20) == dict.fromkeys(range(1, 21))
        assert len(peer.published) == 20


def test_only_the_returned_message_is_unroutable() -> None:
    def script(session: Session, tag: int) -> None:
        if tag == 5:
            session.give_back(session.published.index("id-0004") + 1)
            session.ack(5, multiple=True)
        elif tag == 6:
            session.give_back(6)
            session.ack(6)

    with peers(script) as (publisher, _):
        found = at_once(publisher, 5)
    assert [number for number, error in found.items() if error] == [4]
    assert isinstance(found[4], Unroutable)
    assert not found[4].maybe_published


def test_a_late_ack_confirms_nothing_else() -> None:
    def first(session: Session, tag: int) -> None:
        if tag == 2:
            session.ack(1)

    with peers(first) as (publisher, (peer,)):
        with pytest.raises(TimedOut) as caught:
            publisher.publish(message(1), deadline=2)
        assert caught.value.maybe_published
        with pytest.raises(TimedOut):
            publisher.publish(message(2), deadline=2)
        assert len(peer.sessions) == 2, "the connection in doubt was not used again"


def test_an_answer_to_nothing_drops_the_connection() -> None:
    def script(session: Session, tag: int) -> None:
        session.ack(7 if len(session.peer.sessions) == 1 else tag)

    with peers(script) as (publisher, (peer,)):
        publisher.publish(message())
        assert len(peer.sessions) == 2
        assert peer.published == ["id-0001"] * 2


def test_a_silent_node_is_left_for_the_next_and_not_asked_again() -> None:
    with peers(silent, ack, policy=replace(PATIENT, attempt=2.0)) as (publisher, (one, two)):
        started = monotonic()
        publisher.publish(message(1))
        assert 2 <= monotonic() - started < PATIENT.deadline
        publisher.publish(message(2))
        assert (one.published, two.published) == (["id-0001"], ["id-0001", "id-0002"])


def test_nacks_are_answered_by_patience_on_other_nodes() -> None:
    def script(session: Session, tag: int) -> None:
        copies = sum(len(node.published) for node in nodes)
        session.ack(tag) if copies > 5 else session.nack(tag)

    with peers(script, script) as (publisher, nodes):
        started = monotonic()
        publisher.publish(message())
        assert monotonic() - started > 0.1, "with pauses"
        assert all(len(node.sessions) == 1 for node in nodes), "each connection is used on"
        assert [len(node.published) for node in nodes] == [3, 3]


def test_a_nack_that_lasts_is_reported_as_one() -> None:
    with peers(lambda session, tag: session.nack(tag)) as (publisher, _), pytest.raises(Nacked) as caught:
        publisher.publish(message(), deadline=2)
    assert not caught.value.maybe_published


@pytest.mark.parametrize("code", [320, 541])
def test_a_node_that_cannot_serve_is_left(code: int) -> None:
    def refuse(session: Session, _tag: int) -> None:
        session.close_connection(code, "not now")

    with peers(refuse, ack) as (publisher, (one, two)):
        publisher.publish(message())
        assert (len(one.published), len(two.published)) == (1, 1)
    with peers(refuse) as (publisher, _), pytest.raises(Unreachable, match="not now") as caught:
        publisher.publish(message(), deadline=2)
    assert caught.value.maybe_published


def test_a_node_that_refuses_the_login_is_left() -> None:
    with peers(ack, ack) as (publisher, (one, two)):
        one.knows_nobody = True
        publisher.publish(message())
        assert (one.published, two.published) == ([], ["id-0001"])
        two.knows_nobody = True
        publisher.close()
        with pytest.raises(Unreachable, match="ACCESS_REFUSED") as caught:
            publisher.publish(message(2), deadline=2)
    assert not caught.value.maybe_published


@pytest.mark.parametrize("code", [403, 404])
def test_a_node_without_its_log_is_not_believed(code: int) -> None:
    """It lets go on who is connected, and knows no exchange and no permission any more."""

    def without(session: Session, _tag: int) -> None:
        session.peer.knows_nobody = True
        session.close_channel(code, "unknown")

    with peers(without, ack) as (publisher, (one, two)):
        publisher.publish(message())
        assert (one.published, two.published) == (["id-0001"], ["id-0001"])
    with peers(without, ack) as (publisher, (one, two)):
        outcomes = list(publisher.publish_all(message(n) for n in range(3)))
        assert all(outcome.acknowledged for outcome in outcomes)
        assert len(two.published) == 3


def test_an_attempt_that_the_deadline_cuts_off_hides_no_answer() -> None:
    def refuse(session: Session, _tag: int) -> None:
        session.peer.deaf = True
        session.close_connection(541, "not now")

    with peers(refuse) as (publisher, (node,)), pytest.raises(Unreachable, match="not now") as caught:
        publisher.publish(message(), deadline=2)
    assert len(node.sessions) == 2, "there was a further attempt"
    assert caught.value.maybe_published


def test_a_lost_connection_is_unknown_and_tried_elsewhere() -> None:
    def cut(session: Session, _tag: int) -> None:
        session.sock.shutdown(socket.SHUT_RDWR)

    with peers(cut, ack) as (publisher, (one, two)):
        publisher.publish(message())
        assert (one.published, two.published) == (["id-0001"], ["id-0001"])


@pytest.mark.parametrize(("code", "kind"), [(404, Unroutable), (406, Refused)])
def test_a_closed_channel_is_the_fault_of_one_message(code: int, kind: type[NotAcknowledged]) -> None:
    def script(session: Session, tag: int) -> None:
        if session.published[tag - 1] == "id-0003":
            session.close_channel(code, "bad message")
        elif len(session.peer.sessions) > 1:
            session.ack(tag)

    with peers(script) as (publisher, _):
        found = at_once(publisher, 6)
    assert {number for number, error in found.items() if error} == {3}
    assert isinstance(found[3], kind)
    assert not found[3].maybe_published


def test_an_alarm_that_ends_in_time_is_waited_for() -> None:
    def script(session: Session, tag: int) -> None:
        session.block()
        sleep(1)  # twice as long as a silent node would be given
        session.unblock()
        session.ack(tag)

    with peers(script, policy=replace(PATIENT, attempt=0.5)) as (publisher, (peer,)):
        publisher.publish(message())
        assert len(peer.published) == 1, "no second copy was sent meanwhile"


def test_an_alarm_that_lasts_is_named() -> None:
    def script(session: Session, tag: int) -> None:
        if tag == 1:
            session.block()

    with peers(script) as (publisher, (peer,)):
        with pytest.raises(Blocked, match="memory or disk alarm") as caught:
            publisher.publish(message(1), deadline=2)
        assert caught.value.maybe_published
        link = publisher.nodes.link(0, PATIENT.limits(monotonic() + 30))
        assert isinstance(link, Link)
        errors = at_once_limited(publisher, link, 4)
        unsent = [error for error in errors if not error.maybe_published]
        assert len(peer.sessions) == 2
        assert all(isinstance(error, Blocked) for error in errors)
        assert len(unsent) + len(peer.sessions[1].published) == 4, "what was never sent is known not to be there"


def at_once_limited(publisher: Publisher, link: Link, count: int) -> list[NotAcknowledged]:
    """Publish one after the other on a blocked link, with the same end; return the errors."""
    errors: list[NotAcknowledged] = []
    end = monotonic() + 3

    def publish(number: int) -> None:
        try:
            publisher.publish(message(number), deadline=end - monotonic())
        except NotAcknowledged as error:
            errors.append(error)

    threads = []
    for number in range(2, 2 + count):
        threads.append(threading.Thread(target=publish, args=(number,)))
        threads[-1].start()
        while not link._blocked:  # the second one finds the link blocked by the first
            assert monotonic() < end, "the first one blocks the link"
            sleep(0.01)
    for thread in threads:
        thread.join()
    return errors


def test_bulk_gives_each_message_its_own_outcome() -> None:
    rng = random.Random(4)  # noqa: S311 - a repeatable mixture
    fate = {f"id-{n:04}": rng.choice(["ack", "ack", "return", "nack once", "nack"]) for n in range(400)}

    def script(session: Session, tag: int) -> None:
        task = session.published[tag - 1]
        if fate[task] == "return":
            session.give_back(tag)
        if fate[task] == "nack" or (fate[task] == "nack once" and session.published.count(task) == 1):
            session.nack(tag)
        else:
            session.ack(tag)

    with peers(script) as (publisher, _):
        outcomes = list(publisher.publish_all((message(n) for n in range(400)), window=37, deadline=5.0))
    assert sorted(outcome.index for outcome in outcomes) == list(range(400))
    wanted: dict[str, type | None] = {"ack": None, "nack once": None, "return": Unroutable, "nack": Nacked}
    for outcome in outcomes:
        kind: Any = wanted[fate[str(outcome.task_id)]]
        assert isinstance(outcome.error, kind) if kind else outcome.acknowledged


@pytest.mark.parametrize(
    "changes",
    [{"routing_key": "k" * 300}, {"headers": {"id": object()}}, {"properties": {"content_type": "a second one"}}],
    ids=lambda changes: next(iter(changes)),
)
def test_bulk_goes_on_after_a_message_that_amqp_cannot_carry(changes: dict[str, Any]) -> None:
    with peers(ack) as (publisher, (peer,)):
        outcomes = list(publisher.publish_all([message(0), replace(message(1), **changes), message(2)]))
    assert [outcome.acknowledged for outcome in sorted(outcomes, key=lambda one: one.index)] == [True, False, True]
    assert len(peer.sessions) == 1, "the connection that others share was not given up"


def test_bulk_moves_to_the_next_node() -> None:
    def dies(session: Session, tag: int) -> None:
        if tag == 50:
            session.sock.shutdown(socket.SHUT_RDWR)
        else:
            session.ack(tag)

    with peers(dies, ack) as (publisher, (_, two)):
        outcomes = list(publisher.publish_all((message(n) for n in range(200)), window=20))
    assert all(outcome.acknowledged for outcome in outcomes)
    assert len(set(two.published)) >= 150


def test_idle_connection_that_the_broker_closed_costs_no_copy() -> None:
    with peers(ack) as (publisher, (peer,)):
        publisher.publish(message(1))
        link = publisher.nodes.link(0, PATIENT.limits(monotonic() + 30))
        assert isinstance(link, Link)
        peer.sessions[0].sock.shutdown(socket.SHUT_RDWR)
        assert select.select([link._sock], [], [], 10)[0], "the end of the connection has arrived"
        publisher.publish(message(2))
        assert peer.published == ["id-0001", "id-0002"]


def test_a_handler_publishes_while_its_thread_waits_for_an_answer() -> None:
    def script(session: Session, tag: int) -> None:
        if session is session.peer.sessions[0]:
            os.kill(os.getpid(), signal.SIGUSR2)
        else:
            session.ack(tag)
            session.peer.sessions[0].ack(1)

    with peers(script) as (publisher, (peer,)), handling(lambda: publisher.publish(message(2))):
        publisher.publish(message(1))
        assert peer.published == ["id-0001", "id-0002"], "no copy was needed"
        assert len(peer.sessions) == 2


def test_a_handler_publishes_while_its_thread_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    with peers(ack) as (publisher, (peer,)):
        inside(monkeypatch, lambda: publisher.publish(message(2)))
        publisher.publish(message(1))
        assert sorted(peer.published) == ["id-0001", "id-0002"]
        assert publisher.nodes.depth.value == 0


def test_handlers_that_interrupt_each_other_without_end_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Unreachable] = []
    with peers(ack) as (publisher, (peer,)):

        def again() -> None:
            inside(monkeypatch, again)
            try:
                publisher.publish(message(2))
            except Unreachable as error:
                errors.append(error)

        inside(monkeypatch, again)
        publisher.publish(message(1))
        assert len(errors) == 1
        assert "interrupted each other" in str(errors[0])
        assert len(peer.published) == len(peer.sessions) == DEPTH


def test_a_fork_in_the_middle_of_a_publish_returns_in_both_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[int] = []
    with peers(ack) as (publisher, (peer,)):
        inside(monkeypatch, lambda: children.append(os.fork()))
        acknowledged = False
        try:
            acknowledged = bool(publisher.publish(message(1)))
        finally:
            if children == [0]:
                os._exit(0 if acknowledged else 1)  # a child that raised would go on as a second pytest
        assert os.waitpid(children[0], 0)[1] == 0
        assert peer.published == ["id-0001"] * 2, "each on its own connection"


def test_a_handler_that_raises_anywhere_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It strikes at each place in turn where Python looks for signals: at the start of a function, after a C call."""
    waits: list[str] = []
    monkeypatch.setattr(Link, "give_up", lambda _link: waits.append("an answer was waited for in vain"))
    other: list[NotAcknowledged] = []
    stop = threading.Event()
    with peers(ack) as (publisher, _):

        def meanwhile() -> None:
            while not stop.is_set():
                try:
                    publisher.publish(message(2))
                except NotAcknowledged as error:
                    other.append(error)

        thread = threading.Thread(target=meanwhile)
        thread.start()
        try:
            place, struck = 0, True
            while struck:
                place += 1
                struck = strike(place, lambda: publisher.publish(message(1)))
                publisher.publish(message(3))
                assert publisher.nodes.depth.value == 0
        finally:
            stop.set()
            thread.join()
    assert place > 50, "it struck at many places"
    assert (waits, other) == ([], [])


@pytest.mark.parametrize("attribute", ["Queue", "defaultdict", "set"])
def test_a_handler_that_raises_while_a_channel_is_made_is_heard(
    monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    """py-amqp lists a channel before it gives it its attributes: what is half made must not break the closing."""

    def struck(*_: object) -> None:
        raise SoftTimeLimitExceeded

    with peers(ack) as (publisher, (peer,)):
        monkeypatch.setattr(amqp.channel, attribute, struck, raising=False)
        with pytest.raises(SoftTimeLimitExceeded):
            publisher.publish(message(1))
        monkeypatch.undo()
        publisher.publish(message(2))
        assert peer.published == ["id-0002"]
        peer.sessions[0].sock.settimeout(10)
        assert peer.sessions[0].sock.recv(1) == b"", "the first connection was closed"


def strike(place: int, call: Callable[[], object]) -> bool:
    """Raise a soft time limit at the given place of a call; return whether it has so many."""
    left = place

    def profile(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal left
        if event in {"call", "c_return"} and "publisher" in frame.f_code.co_filename and __file__ not in str(frame):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise SoftTimeLimitExceeded

    sys.setprofile(profile)
    try:
        call()
    except SoftTimeLimitExceeded:
        return True
    finally:
        sys.setprofile(None)
    return left <= 0


@contextlib.contextmanager
def handling(handle: Callable[[], object]) -> Iterator[None]:
    """Call a function when SIGUSR2 comes."""
    previous = signal.signal(signal.SIGUSR2, lambda *_: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, previous)


def inside(monkeypatch: pytest.MonkeyPatch, handle: Callable[[], object]) -> None:
    """Call a function once in the middle of the next publish, while the link is in use."""
    frames = Wire.frames

    def interrupted(wire: Wire, frame_max: int) -> bytes:
        monkeypatch.undo()
        handle()
        return frames(wire, frame_max)

    monkeypatch.setattr(Wire, "frames", interrupted)


@contextlib.contextmanager
def kombu_connection(*scripts: Callable[[Session, int], None]) -> Iterator[tuple[Connection, list[Peer]]]:
    """A kombu connection, as Celery opens it for everything but tasks, to scripted nodes."""
    transport.register()
    nodes = [Peer(script) for script in scripts]
    url = ";".join(f"amqp://u:p@127.0.0.1:{node.port}//" for node in nodes)
    connection = Connection(url, transport_options={"confirm_publish": True}, connect_timeout=30)
    try:
        yield connection, nodes
    finally:
        connection.collect()
        for node in nodes:
            node.server.close()


def test_kombus_own_failover_does_not_wait_for_a_silent_node_to_say_goodbye() -> None:
    with kombu_connection(silent, ack) as (connection, (one, two)):
        started = monotonic()
        Producer(connection).publish(
            {},
            routing_key="x",
            correlation_id="id-0001",
            confirm_timeout=2,
            retry=True,
            retry_policy={"max_retries": 3},
        )
        assert monotonic() - started < 2 + transport.CLOSE + 10
        assert (one.published, two.published) == (["id-0001"], ["id-0001"])


def test_kombus_own_failover_passes_by_a_node_that_refuses_the_login() -> None:
    """The worker, its events, and the command line connect like this."""
    with kombu_connection(ack, ack) as (connection, (one, two)):
        one.knows_nobody = True
        connection.ensure_connection(max_retries=1)
        assert connection.port == two.port
        connection.close()
        two.knows_nobody = True
        with pytest.raises(OperationalError, match="ACCESS_REFUSED"):
            connection.ensure_connection(max_retries=1)


def test_kombus_own_confirms_are_matched_by_tag() -> None:
    def late(session: Session, tag: int) -> None:
        if tag == 2:
            session.ack(1)

    with kombu_connection(late) as (connection, (peer,)):
        producer = Producer(connection, auto_declare=False)
        for task in ("id-0001", "id-0002"):
            with pytest.raises((OSError, RecoverableConnectionError)):
                producer.publish({}, routing_key="x", correlation_id=task, confirm_timeout=0.2)
        assert peer.published == ["id-0001"], "the connection in doubt is dropped, the next call has to reconnect"


def test_a_declaration_that_is_not_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER", 0.3)
    with kombu_connection(ack) as (connection, _), pytest.raises(TimeoutError):
        Queue("q", channel=connection.default_channel).declare()


def test_a_goodbye_that_is_not_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CLOSE", 0.3)
    with kombu_connection(ack) as (connection, _):
        channel = connection.default_channel
        started = monotonic()
        with pytest.raises(TimeoutError):
            channel.close()
        assert monotonic() - started < 10


def test_tls_in_both_directions_at_once(tmp_path: Path) -> None:
    """Threads read and write one TLS connection that never blocks; a large message does not fit into one write."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=peer", "-days", "1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    peer = Peer(ack, context)
    options = {"ca_certs": str(certificate), "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "127.0.0.1"}
    publisher = Publisher(Connection(f"amqps://u:p@127.0.0.1:{peer.port}//", ssl=options), PATIENT)
    assert at_once(publisher, 50) == dict.fromkeys(range(1, 51))
    publisher.publish(replace(message(51), body=b"x" * 8_000_000))
    outcomes = list(publisher.publish_all((message(n) for n in range(100, 1100)), window=300))
    assert all(outcome.acknowledged for outcome in outcomes)
    publisher.close()
    peer.server.close()

"""Expired tasks are settled in batches, and a queue that hands out nothing else is read through a window."""

from __future__ import annotations

from threading import Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from amqp import spec
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import expired as expired_module
from holdfast.expired import ROW, WINDOW, Expired, _Together, past
from holdfast.request import PutBack

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_START = 0.2  # seconds for a thread that is not to wait; one that waits for its caller costs the test as much
LATE = {"expires": "2020-01-01T00:00:00+00:00"}
CONSUMER = {
    "initial_prefetch_count": 1,
    "connection_errors": (ConnectionError,),
    "channel_errors": (),
}


class Timer:
    """Runs what is due when it is told."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def call_after(self, seconds: float, function: Any, args: Any = ()) -> Any:
        self.entries.append((seconds, function, args))
        return self.entries[-1]

    def cancel(self, entry: Any) -> None:
        if entry in self.entries:
            self.entries.remove(entry)

    def run(self) -> None:
        entries, self.entries = self.entries, []
        for _, function, args in entries:
            function(*args)


class Threads:
    """Runs what is due at once in a thread: before whoever asked goes on, unless it must not."""

    def __init__(self) -> None:
        self._threads: list[Thread] = []

    def call_after(self, _seconds: float, function: Any) -> Any:
        thread = Thread(target=function, daemon=True)
        self._threads.append(thread)
        thread.start()
        thread.join(HEAD_START)
        return thread

    def cancel(self, _entry: Any) -> None:
        pass

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


class Backend:
    """Notes what it is asked to store together."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.away = False
        self.odd = False
        self.left_out: set[str] = set()

    def store_revoked(self, contexts: dict[str, Any], _why: str) -> frozenset[str]:
        if self.away:
            raise PutBack("the store is away")
        if self.odd:
            raise ValueError("task_id must not be empty")
        self.calls.append(list(contexts))
        return frozenset(contexts) - self.left_out


class Request:
    """A request that notes how it was settled."""

    def __init__(
        self,
        backend: Backend,
        name: str,
        *,
        stored: bool = True,
        error: Exception | None = None,
        unreadable: bool = False,
    ) -> None:
        self.task = SimpleNamespace(backend=backend)
        self.id, self.store_errors, self.recorded, self._error = name, stored, False, error
        self.how = ""
        self.message = f"message of {name}"
        self._unreadable = unreadable

    @property
    def _context(self) -> None:
        if self._unreadable:
            raise TypeError("the body says nothing about callbacks")

    def settle_revoked(self, *_: object) -> None:
        if self._error:
            raise self._error
        self.how = f"settled, recorded: {self.recorded}"

    def not_recorded(self, _error: PutBack) -> None:
        self.how = "put back"


class Channel:
    """Notes what is said on it."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def basic_qos(self, *args: Any) -> None:
        self.said.append(("qos", *args))

    def basic_cancel(self, tag: str, nowait: bool) -> None:
        assert nowait
        self.said.append(("cancel", tag))


class Broker:
    """Settles messages as a broker does, and counts the frames that say so."""

    def __init__(self) -> None:
        self.unsettled: set[int] = set()
        self.settled: dict[int, str] = {}
        self.frames = 0

    def _settle(self, tag: int, fate: str) -> None:
        self.unsettled.remove(tag)  # a tag that is settled twice closes the channel
        self.settled[tag] = fate

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.frames += 1
        for one in [open_ for open_ in self.unsettled if open_ < tag] if multiple else []:
            self._settle(one, "ack")
        self._settle(tag, "ack")

    def basic_reject(self, tag: int, requeue: bool) -> None:
        assert not requeue
        self._settle(tag, "reject")

    def send_method(self, _method: Any, _layout: str, values: tuple[Any, ...]) -> None:
        self._settle(values[0], "nack")


class Queue:
    """A queue that is consumed from."""

    name = "q"

    def __call__(self, channel: Channel) -> Queue:
        self.channel = channel
        return self

    def consume(self, tag: str, _callback: Any, nowait: bool) -> None:
        assert nowait
        self.channel.said.append(("consume", tag))


@pytest.fixture
def c(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(expired_module, "MessageConsumer", lambda *_, **__: SimpleNamespace(_receive_callback=None))
    channel = Channel()
    connection = SimpleNamespace(transport=SimpleNamespace(driver_type="amqp"), channel=lambda: channel)
    c = SimpleNamespace(
        **CONSUMER,
        timer=Timer(),
        connection=connection,
        channel=channel,
        task_consumer=SimpleNamespace(queues=[Queue()], accept=None),
        unreadable=[],
        returned=[],
    )
    c.on_decode_error = lambda message, error: c.unreadable.append((message, error))
    c.give_back = c.returned.append
    return c


@pytest.fixture
def step(c: Any) -> Expired:
    step = Expired(c)
    step.start(c)
    return step


@pytest.fixture
def backend() -> Backend:
    return Backend()


def message(headers: dict[str, Any], tag: int = 1) -> Any:
    return SimpleNamespace(headers=headers, delivery_info={"consumer_tag": "expired-q"}, delivery_tag=tag)


def add(step: Expired, *requests: Any) -> None:
    for one in requests:
        step.add(one)


def test_all_that_wait_are_stored_with_one_confirmation_and_then_settled(
    step: Expired, c: Any, backend: Backend
) -> None:
    requests = [Request(backend, name) for name in "abc"] + [Request(backend, "ignored", stored=False)]
    add(step, *requests)
    assert not any(one.how for one in requests)
    assert len(c.timer.entries) == 1
    c.timer.run()
    assert backend.calls == [["a", "b", "c"]]
    assert [one.how for one in requests] == ["settled, recorded: True"] * 3 + ["settled, recorded: False"]


def test_a_timer_thread_that_is_faster_than_its_caller_settles_all(step: Expired, c: Any, backend: Backend) -> None:
    c.timer, c.initial_prefetch_count = Threads(), 0
    step = Expired(c)
    step.start(c)
    requests: list[Any] = [Request(backend, name) for name in "ab"]
    for one in requests:
        step.add(one)
        c.timer.join()
    assert all(one.how for one in requests)


def test_what_the_store_takes_only_alone_is_stored_alone(step: Expired, c: Any, backend: Backend) -> None:
    backend.left_out = {"large"}
    large = Request(backend, "large")
    add(step, large, Request(backend, "b"))
    c.timer.run()
    assert large.how == "settled, recorded: False"


def test_a_store_that_is_away_puts_back_what_needs_it(step: Expired, c: Any, backend: Backend) -> None:
    backend.away = True
    stored, ignored = Request(backend, "a"), Request(backend, "b", stored=False)
    add(step, stored, ignored)
    c.timer.run()
    assert (stored.how, ignored.how) == ("put back", "settled, recorded: False")


def test_a_message_that_cannot_be_settled_does_not_keep_the_others(step: Expired, c: Any, backend: Backend) -> None:
    error = ValueError("odd")
    good = Request(backend, "b")
    add(step, Request(backend, "a", error=error), good)
    c.timer.run()
    assert good.how
    assert c.unreadable == [("message of a", error)]


def test_a_message_that_cannot_be_read_does_not_keep_the_others(step: Expired, c: Any, backend: Backend) -> None:
    requests = [Request(backend, "a", unreadable=True), Request(backend, "b")]
    add(step, *requests)
    c.timer.run()
    assert backend.calls == [["b"]]
    assert [one.how for one in requests] == ["settled, recorded: False", "settled, recorded: True"]


def test_what_the_store_cannot_even_be_asked_for_is_settled_one_by_one(step: Expired, c: Any, backend: Backend) -> None:
    backend.odd = True
    requests = [Request(backend, name) for name in ("", "b")]
    add(step, *requests)
    c.timer.run()
    assert [one.how for one in requests] == ["settled, recorded: False"] * 2


def test_where_no_state_is_kept_the_store_is_not_asked(step: Expired, c: Any, backend: Backend) -> None:
    ignored = Request(backend, "a", stored=False)
    add(step, ignored)
    c.timer.run()
    assert (ignored.how, backend.calls) == ("settled, recorded: False", [])


def test_a_lost_connection_is_not_swallowed(step: Expired, c: Any, backend: Backend) -> None:
    add(step, Request(backend, "a", error=ConnectionResetError()))
    with pytest.raises(ConnectionResetError):
        c.timer.run()


def test_a_long_batch_lets_the_loop_turn(
    step: Expired, c: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired_module, "TURN", -1)
    one = Request(backend, "a")
    add(step, one)
    c.timer.run()
    assert not one.how
    monkeypatch.undo()
    c.timer.run()
    assert one.how
    assert backend.calls == [["a"]]


def test_a_window_opens_after_a_row_and_closes_at_the_first_that_is_not_expired(step: Expired, c: Any) -> None:
    for _ in range(ROW - 1):
        step.seen("q", True)
    step.seen("q", False)
    for _ in range(ROW - 1):
        step.seen("q", True)
    assert c.channel.said == [("qos", 0, WINDOW, False)]
    step.seen("q", True)
    step.seen("q", True)
    assert c.channel.said[1:] == [("consume", "expired-q")]
    handled: list[Any] = []
    step.handle = handled.append
    late, healthy = (message(headers) for headers in (LATE, {"expires": None}))
    for one in (late, healthy, late):  # the last one was on its way
        step._drained(one)
    assert (handled, c.returned) == ([late, late], [healthy])
    assert c.channel.said[2:] == [("cancel", "expired-q")]
    assert late.queue == "q"


def test_a_window_closes_when_its_queue_is_quiet(step: Expired, c: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(ROW):
        step.seen("q", True)
    c.timer.run()
    assert c.channel.said[-1] == ("consume", "expired-q")
    monkeypatch.setattr(expired_module, "QUIET", 0)
    c.timer.run()
    assert c.channel.said[-1] == ("cancel", "expired-q")
    assert not c.timer.entries


def test_no_window_for_a_queue_that_was_cancelled_or_without_amqp(step: Expired, c: Any) -> None:
    for _ in range(ROW):
        step.seen("cancelled", True)
    c.connection.transport.driver_type = "redis"
    step.start(c)
    for _ in range(ROW):
        step.seen("q", True)
    assert c.channel.said == [("qos", 0, WINDOW, False)]


def test_a_lost_connection_forgets_what_came_over_it(step: Expired, c: Any, backend: Backend) -> None:
    add(step, Request(backend, "a"))
    step.start(c)
    c.timer.run()
    assert not backend.calls


def test_a_worker_that_ends_closes_its_windows(step: Expired, c: Any) -> None:
    for _ in range(ROW):
        step.seen("q", True)
    step.stop(c)
    assert c.channel.said[-1] == ("cancel", "expired-q")
    said, handled = len(c.channel.said), list[Any]()
    step.handle = handled.append
    late, healthy = (message(headers) for headers in (LATE, {"expires": None}))
    for one in (late, healthy):  # they were on their way
        step._drained(one)
    assert (handled, c.returned, late.queue) == ([late], [healthy], "q")
    for _ in range(ROW):
        step.seen("q", True)
    assert len(c.channel.said) == said


def test_a_window_on_a_dead_connection_does_not_hinder_the_next_one(
    step: Expired, c: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise ConnectionResetError

    for _ in range(ROW):
        step.seen("q", True)
    monkeypatch.setattr(c.channel, "basic_cancel", lost)
    step.start(c)
    for _ in range(ROW):
        step.seen("q", True)
    assert c.channel.said[-1] == ("consume", "expired-q")


@settings(deadline=None)
@given(st.lists(st.sampled_from(["ack", "nack", "reject", "later", "turn"]), max_size=40))
def test_acknowledging_together_settles_what_one_by_one_would(fates: list[str]) -> None:
    broker = Broker()
    c = SimpleNamespace(**CONSUMER, timer=Timer())
    together = _Together(broker, c)
    expected: dict[int, str] = {}
    for tag, fate in enumerate(fates, 1):
        together.given(tag)
        broker.unsettled.add(tag)
        if fate == "nack":
            together.send_method(spec.Basic.Nack, "Lbb", (tag, False, True))
        elif fate == "reject":
            together.basic_reject(tag, requeue=False)
        elif fate == "ack":
            together.basic_ack(tag)
        else:
            if fate == "turn":
                c.timer.run()
            continue
        expected[tag] = fate
    c.timer.run()
    assert broker.settled == expected


@pytest.fixture
def open_tags() -> Iterator[tuple[Broker, Threads, _Together]]:
    """Return a channel with two open messages whose timer is a thread; at the end each one is settled."""
    broker, timer = Broker(), Threads()
    together = _Together(broker, SimpleNamespace(**CONSUMER, timer=timer))
    broker.unsettled |= {1, 2}
    for tag in broker.unsettled:
        together.given(tag)
    yield broker, timer, together
    timer.join()
    assert not broker.unsettled


def test_a_timer_thread_may_be_faster_than_what_it_acknowledges(open_tags: tuple[Broker, Threads, _Together]) -> None:
    _, timer, together = open_tags
    for tag in (1, 2):
        together.basic_ack(tag)
        timer.join()


def test_a_timer_thread_that_acknowledges_misses_no_message(open_tags: tuple[Broker, Threads, _Together]) -> None:
    _, timer, together = open_tags

    class Slow(set[int]):
        def add(self, tag: int) -> None:
            timer.call_after(0, together._acknowledge)
            super().add(tag)

    together._settled = Slow({1})
    together._unsettled.discard(1)
    together.basic_ack(2)


@pytest.mark.parametrize("fate", ["reject", "nack"])
def test_a_timer_thread_acknowledges_no_message_that_is_returned(
    open_tags: tuple[Broker, Threads, _Together], monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    broker, _, together = open_tags
    monkeypatch.setattr(together._c, "timer", Timer())
    together.basic_ack(2)
    settle = broker._settle

    def slow(tag: int, how: str) -> None:
        if how == fate:
            together._c.timer.run()
        settle(tag, how)

    monkeypatch.setattr(broker, "_settle", slow)
    if fate == "nack":
        together.send_method(spec.Basic.Nack, "Lbb", (1, False, True))
    else:
        together.basic_reject(1, requeue=False)
    assert broker.settled == {1: fate, 2: "ack"}


def test_a_batch_is_acknowledged_with_one_frame() -> None:
    broker = Broker()
    c = SimpleNamespace(**CONSUMER, timer=Timer())
    together = _Together(broker, c)
    for tag in range(1, 201):
        together.given(tag)
        broker.unsettled.add(tag)
    for tag in range(200, 0, -1):
        together.basic_ack(tag)
    c.timer.run()
    assert (len(broker.settled), broker.frames) == (200, 1)


def test_what_cannot_be_acknowledged_is_left_to_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise ConnectionResetError

    broker = Broker()
    c = SimpleNamespace(**CONSUMER, timer=Timer())
    monkeypatch.setattr(broker, "basic_ack", lost)
    _Together(broker, c).basic_ack(1)
    c.timer.run()


@pytest.mark.parametrize(
    "text", [None, "2999-01-01T00:00:00+00:00", "2020-01-01T00:00:00", "9999-12-31T24:00:00Z", "x", 5]
)
def test_only_what_certainly_expired_is_drained(text: object) -> None:
    assert past(LATE)
    assert not past({"expires": text})

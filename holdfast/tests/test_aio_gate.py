"""How many publishes of coroutines begin in one round of their event loop."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from time import monotonic
from weakref import ref

import pytest
from test_aio import ids, scripted
from test_publisher_link import ack

from holdfast import aio
from holdfast.aio.gate import ROUND, Gate, gate_here
from holdfast.publisher import TimedOut

FAR = 3600.0  # seconds


async def rounds(count: int, entered: Gate) -> list[int]:
    """Return the round of the loop in which each of so many calls began that were made at once, in their order."""
    number, begun = 0, list[tuple[int, int]]()

    async def call(place: int) -> None:
        assert await entered.enter(monotonic() + FAR)
        begun.append((place, number))

    calls = asyncio.gather(*(call(place) for place in range(count)))
    while not calls.done():
        await asyncio.sleep(0)
        number += 1
    assert [place for place, _ in begun] == list(range(count))
    return [when for _, when in begun]


def test_no_more_begin_in_one_round_than_it_has_room_for() -> None:
    async def run() -> None:
        gate = Gate()
        for _ in range(2):  # and again, after a pause
            begun = Counter(await rounds(10 * ROUND + 1, gate))
            assert max(begun.values()) <= ROUND
            assert len(begun) <= 13, "no round is left out"
        assert await rounds(ROUND, gate) == [0] * ROUND, "few do not wait"

    asyncio.run(run())


def test_who_is_cancelled_or_late_takes_nobodys_turn() -> None:
    async def run() -> None:
        gate = Gate()
        until = monotonic() + FAR
        first = [asyncio.create_task(gate.enter(until)) for _ in range(ROUND)]
        gone = [asyncio.create_task(gate.enter(until)) for _ in range(ROUND)]
        late = asyncio.create_task(gate.enter(0.0))
        last = [asyncio.create_task(gate.enter(until)) for _ in range(ROUND)]
        gate._next_round = lambda: None  # type: ignore[method-assign]  # no round comes
        await asyncio.sleep(0)
        for one in gone:
            one.cancel()
        assert await late is False
        Gate._next_round(gate)
        assert await asyncio.gather(*first, *last) == [True] * 2 * ROUND

    asyncio.run(run())


def test_a_loop_that_has_ended_is_not_kept() -> None:
    async def run() -> ref[asyncio.AbstractEventLoop]:
        await rounds(3 * ROUND, gate_here())
        return ref(asyncio.get_running_loop())

    gone = asyncio.run(run())
    gc.collect()
    assert gone() is None


def test_publishes_begun_at_once_are_all_published_in_their_order() -> None:
    with scripted(ack) as (_, add, (node,)):

        async def run() -> None:
            await asyncio.gather(*(aio.apply_async(add, (n,), task_id=f"id-{n:04}") for n in range(20 * ROUND)))

        asyncio.run(run())
        assert ids(node) == [f"id-{n:04}" for n in range(20 * ROUND)]


def test_a_publish_that_waits_for_its_turn_is_never_sent_when_it_ends_before() -> None:
    with scripted(ack) as (_, add, (node,)):

        async def run() -> tuple[TimedOut, BaseException]:
            await aio.delay(add, 0)
            gate_here()._next_round = lambda: None  # type: ignore[method-assign]  # no round comes
            before = [asyncio.create_task(aio.delay(add, n)) for n in range(ROUND)]
            late = asyncio.create_task(aio.apply_async(add, (98,), task_id="id-0098", deadline=0.1))
            cancelled = asyncio.create_task(aio.apply_async(add, (99,), task_id="id-0099"))
            started = monotonic()
            with pytest.raises(TimedOut) as caught:
                await late
            assert 0.1 <= monotonic() - started < 5
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError) as told:
                await cancelled
            await asyncio.gather(*before)
            return caught.value, told.value

        error, cancelled = asyncio.run(run())
        assert (error.task_id, error.maybe_published) == ("id-0098", False)
        known = aio.verdict(cancelled)
        assert known
        assert (known.task_id, known.maybe_published) == ("id-0099", False)
        assert len(node.published) == 1 + ROUND

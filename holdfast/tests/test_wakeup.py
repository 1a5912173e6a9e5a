"""One call at the earliest of the times that were asked for, whatever the timer is."""

from __future__ import annotations

import pytest
from timer import Timer

from holdfast.wakeup import WakeUp


@pytest.mark.parametrize(("asked", "entries"), [((2, 5), [2]), ((5, 2), [2]), ((5, 2, 0), [0]), ((0, 0), [0])], ids=str)
def test_the_earliest_time_counts(asked: tuple[float, ...], entries: list[float]) -> None:
    timer, calls = Timer(), list[int]()
    wake = WakeUp(timer, lambda: calls.append(1))
    for seconds in asked:
        wake.within(seconds)
    assert [seconds for seconds, _ in timer.entries] == entries
    timer.entries.pop()[1]()
    assert calls == [1]


def test_who_is_called_may_ask_again() -> None:
    timer = Timer()
    wake = WakeUp(timer, lambda: wake.within(3))
    wake.within(1)
    timer.entries.pop()[1]()
    assert [seconds for seconds, _ in timer.entries] == [3]


def test_what_is_cancelled_does_not_keep_the_next_from_being_called() -> None:
    timer = Timer()
    wake = WakeUp(timer, lambda: None)
    wake.cancel()
    wake.within(1)
    wake.cancel()
    assert not timer.entries
    wake.within(2)
    assert [seconds for seconds, _ in timer.entries] == [2]

"""Gaps are measured from the fault, to the next event, and never shortened by the edge of the window."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drill.faults.record import Fault
from drill.judge.gaps import longest, rerun
from drill.judge.intervals import Intervals


@pytest.mark.parametrize(
    ("times", "seconds", "ended"),
    [
        ([9.0, 10.5, 14.0, 15.0, 20.5], 5.5, True),  # the last silence ends after the window
        ([9.0, 10.5, 14.0, 19.5], 5.5, True),
        ([9.0, 13.0, 20.0], 7.0, True),
        ([9.0, 21.0], 11.0, True),  # none inside
        ([9.0], 10.0, False),  # none ever again
        ([9.0, 12.0], 8.0, False),
        ([9.0, 19.0], 9.0, True),
        ([], 10.0, False),
    ],
)
def test_the_longest_silence_in_a_window(times: list[float], seconds: float, ended: bool) -> None:
    gap = longest(times, 10.0, 20.0)
    assert (gap.seconds, gap.ended) == (seconds, ended)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 99), st.floats(0.1, 50))
def test_no_silence_in_the_window_is_longer(times: list[float], start: float, length: float) -> None:
    times.sort()
    end = start + length
    gap = longest(times, start, end)
    inside = [t for t in times if start < t <= end]
    assert gap.seconds <= max([*times, end]) - start
    assert gap.seconds * (len(inside) + 1) >= (inside[-1] if inside else 0) - start


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200) | st.just(float("inf")), st.uuids().map(str)), max_size=30),
    st.floats(0, 300),
    st.floats(0, 100),
)
def test_the_index_finds_what_a_search_through_all_finds(
    spans: list[tuple[float, float, str]], start: float, length: float
) -> None:
    spans = [(since, since + lasts, name) for since, lasts, name in spans]
    expected = {name for since, until, name in spans if since <= start + length and until >= start}
    assert set(Intervals(spans).touching(start, start + length)) == expected


@pytest.mark.parametrize(
    ("cut", "seconds", "ended"),
    [
        ([], 0.0, True),
        ([(9.0, 14.0)], 3.0, True),
        ([(9.0, 14.0), (10.5, 17.5)], 6.5, True),
        ([(9.0, float("inf"))], 9.0, False),  # not again before the window ended
        ([(9.0, 10.5)], 0.0, True),  # was repeated before this fault
        ([(12.0, 30.0)], 0.0, True),  # began after it
    ],
)
def test_a_task_that_was_cut_waits_for_its_next_run(
    cut: list[tuple[float, float]], seconds: float, ended: bool
) -> None:
    fault = Fault("1-x", "x", [], apply_at=10, applied_at=11, settled_at=20)
    gap = rerun(cut, fault)
    assert (gap.seconds, gap.ended) == (seconds, ended)

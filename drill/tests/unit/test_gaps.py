"""Gaps are measured from the fault, to the next event, and never shortened by the edge of the window."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drill.gaps import longest


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

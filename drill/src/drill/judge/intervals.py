"""Which of many time spans touch a window, without looking at all of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONG = 60.0  # seconds; longer spans are few and are looked at one by one


class Intervals:
    """Spans of time with a name each.

    Args:
        spans: start, end and name; an end may be infinite.
    """

    def __init__(self, spans: Iterable[tuple[float, float, str]]) -> None:
        ordered = sorted(spans)
        self._short = [span for span in ordered if span[1] - span[0] <= LONG]
        self._long = [span for span in ordered if span[1] - span[0] > LONG]
        self._starts = [start for start, _, _ in self._short]

    def touching(self, start: float, end: float) -> Iterator[str]:
        """Yield the names of the spans that share a moment with the window."""
        first, last = bisect_left(self._starts, start - LONG), bisect_right(self._starts, end)
        yield from (name for _, until, name in self._short[first:last] if until >= start)
        yield from (name for since, until, name in self._long if since <= end and until >= start)

"""A function that a worker's timer calls at the earliest of the times which were asked for."""

from __future__ import annotations

from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class WakeUp:
    """One call for all who ask until it begins.

    Without an event loop the timer is a thread of its own, which may call before the caller goes on. So what is to be
    done has to be noted before :meth:`within`.

    Args:
        timer: of the worker's consumer.
        function: what is called, never from within :meth:`within`.
    """

    def __init__(self, timer: Any, function: Callable[[], None]) -> None:
        self._timer = timer
        self._function = function
        self._lock = Lock()
        self._entry: Any = None
        self._due = 0.0

    def within(self, seconds: float) -> None:
        """Have the function called in so many seconds, or earlier if that was asked for already."""
        due = monotonic() + seconds
        with self._lock:
            if self._entry is not None:
                if self._due <= due:
                    return
                self._timer.cancel(self._entry)
            self._due = due
            self._entry = self._timer.call_after(seconds, self._call)

    def cancel(self) -> None:
        """Call nothing of what was asked for, unless it has begun."""
        with self._lock:
            if self._entry is not None:
                self._timer.cancel(self._entry)
            self._entry = None

    def _call(self) -> None:
        with self._lock:
            self._entry = None
        self._function()

"""A lock for steps that a signal handler may interrupt: it is always released, and nobody waits for it for ever."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from holdfast.publisher.errors import TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Guard:
    """Runs one step at a time.

    A ``with`` statement on a plain lock is not enough here. A handler that raises (a soft time limit, Ctrl-C) between
    the acquisition and the start of the block leaves the lock taken for ever. A reentrant lock knows its owner, so
    releasing it can be tried in any case. A thread that holds the lock already was interrupted in the middle of a step,
    and its handler must not begin another one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def run(self, step: Callable[[], T], until: float) -> T:
        """Run a step while no other one runs.

        Args:
            step: what to run.
            until: ``time.monotonic()`` value after which it is not begun any more. A thread that a signal handler
                holds up releases the lock late, a thread that a fork left behind never does.

        Returns:
            What the step returns.

        Raises:
            TimedOut: the step was not run.
        """
        owned = self._lock._is_owned()  # type: ignore[attr-defined]  # as threading.Condition asks it
        if owned:
            raise TimedOut("this thread was interrupted while it used the connection")
        try:
            if not self._lock.acquire(timeout=max(0.0, until - monotonic())):
                raise TimedOut("another thread keeps the connection busy")
            return step()
        finally:
            try:  # noqa: SIM105 - a call of suppress() would let a handler raise before the release
                self._lock.release()
            except RuntimeError:  # it was not acquired
                pass

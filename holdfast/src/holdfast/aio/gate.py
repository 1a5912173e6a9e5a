"""How many calls of an event loop may begin in one of its rounds.

asyncio runs whatever is ready in a round without a break: thousands of publishes begun at once would hold up every
other coroutine until the last one is handed over. Here each waits for its turn, which costs a future.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from weakref import WeakKeyDictionary

ROUND = 20  # calls; one costs the loop 0.1 to 0.5 ms, while the thread that publishes competes for the interpreter


class Gate:
    """Lets the calls of one event loop begin, in their order; it holds no reference to the loop."""

    def __init__(self) -> None:
        self._left = ROUND
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._armed = False

    async def enter(self, until: float) -> bool:
        """Wait for the turn of a call.

        Args:
            until: when it gives up, in seconds of the monotonic clock.

        Returns:
            False when its turn did not come until then.

        Raises:
            CancelledError: the coroutine was cancelled before its turn.
        """
        loop = asyncio.get_running_loop()
        self._arm(loop)
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return True
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(max(0.0, until - monotonic()), _give_up, turn)
        try:
            return await turn
        finally:
            timer.cancel()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._armed:
            self._armed = True
            loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._armed, self._left = False, ROUND
        while self._waiting and self._left > 0:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled, or too late
                turn.set_result(True)
                self._left -= 1
        if self._left < ROUND:
            self._arm(asyncio.get_running_loop())


def _give_up(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)


_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, Gate] = WeakKeyDictionary()


def gate_here() -> Gate:
    """Return the gate of the running loop."""
    loop = asyncio.get_running_loop()
    return _gates.get(loop) or _gates.setdefault(loop, Gate())

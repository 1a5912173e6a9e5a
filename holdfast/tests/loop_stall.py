"""A recorder of the longest time for which an event loop did nothing else."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STEP = 0.002  # seconds between two looks at the clock


@dataclass
class Stall:
    """The longest stall so far, in seconds."""

    longest: float = 0.0


@asynccontextmanager
async def recorded() -> AsyncIterator[Stall]:
    """Record the longest stall of the running loop until the end of the block."""
    stall = Stall()

    async def look() -> None:
        before = perf_counter()
        while True:
            await asyncio.sleep(STEP)
            now = perf_counter()
            stall.longest = max(stall.longest, now - before - STEP)
            before = now

    looking = asyncio.create_task(look())
    try:
        yield stall
    finally:
        await asyncio.sleep(STEP)  # a stall that has just ended counts
        looking.cancel()

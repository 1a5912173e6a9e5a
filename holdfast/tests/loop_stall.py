"""A recorder of the longest time for which an event loop did nothing else."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STEP = 0.002  # seconds between two looks at the clock


@dataclass
class Stall:
    """The longest stall so far.

    Attributes:
        longest: seconds; on a busy machine others had the processor for some of them.
        work: seconds of processor time that the loop's own thread took at most without a break.
    """

    longest: float = 0.0
    work: float = 0.0


@asynccontextmanager
async def recorded() -> AsyncIterator[Stall]:
    """Record the longest stall of the running loop until the end of the block."""
    stall = Stall()

    async def look() -> None:
        before, worked = perf_counter(), thread_time()
        while True:
            await asyncio.sleep(STEP)
            now, work = perf_counter(), thread_time()
            stall.longest, stall.work = max(stall.longest, now - before - STEP), max(stall.work, work - worked)
            before, worked = now, work

    looking = asyncio.create_task(look())
    try:
        yield stall
    finally:
        await asyncio.sleep(STEP)  # a stall that has just ended counts
        looking.cancel()

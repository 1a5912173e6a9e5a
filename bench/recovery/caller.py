"""Who publishes: ``python -m bench.recovery.caller KIND``, one task after the other until it is ended.

With ``BENCH_RESULTS=1`` it also waits for each result.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from itertools import count
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from bench.recovery.notes import ACKNOWLEDGED, ANSWERED, REFUSED, SENT, UNANSWERED, note

if TYPE_CHECKING:
    from collections.abc import Callable

PACE = 0.2  # seconds between two tasks, so that a time is known to about this
TAKES = 0.4  # seconds of each task: at any moment a worker runs one
PATIENCE = 2.0  # seconds for a result; afterwards the caller asks for another task
_LIMIT = 300.0  # seconds that a publish of taskiq may take, which has no limit of its own

type Publish = Callable[[int, float], Any]
type Answer = Callable[[Any], object]


def celery() -> tuple[Publish, Answer]:
    """Return how to publish with Celery, and how to read a result."""
    from bench.recovery.celery_app import held  # noqa: PLC0415 - one system in each process

    return lambda number, seconds: held.apply_async((number, seconds)), lambda sent: sent.get(timeout=PATIENCE)


def dramatiq() -> tuple[Publish, Answer]:
    """Return the same for dramatiq."""
    from bench.recovery.dramatiq_app import held  # noqa: PLC0415 - as above

    return held.send, lambda sent: sent.get_result(block=True, timeout=int(PATIENCE * 1000))


def taskiq() -> tuple[Publish, Answer]:
    """Return the same for taskiq, whose loop runs in a thread, so that its connection is served all the time."""
    from bench.recovery.taskiq_app import broker, held  # noqa: PLC0415 - as above

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_LIMIT)

    wait(broker.startup())
    return (
        lambda number, seconds: wait(held.kiq(number, seconds)),
        lambda sent: wait(sent.wait_result(timeout=PATIENCE, check_interval=0.05)),
    )


CALLERS: dict[str, Callable[[], tuple[Publish, Answer]]] = {"celery": celery, "dramatiq": dramatiq, "taskiq": taskiq}


def main() -> None:
    """Publish until the process is ended."""
    publish, answer = CALLERS[sys.argv[1]]()
    wants = os.environ.get("BENCH_RESULTS") == "1"
    for number in count(int(monotonic() * 1000)):  # a caller that comes later has other numbers
        sleep(PACE)
        note(SENT, number)
        try:
            sent = publish(number, TAKES / 4 if wants else TAKES)
        except Exception as error:  # noqa: BLE001 - each system has errors of its own
            note(REFUSED, number)
            print(f"publish {number}: {error!r}", flush=True)
            continue
        note(ACKNOWLEDGED, number)
        if not wants:
            continue
        try:
            answer(sent)
            note(ANSWERED, number)
        except Exception as error:  # noqa: BLE001 - as above
            note(UNANSWERED, number)
            print(f"result {number}: {error!r}", flush=True)


if __name__ == "__main__":
    main()

"""What the callers and workers of a system note while something is broken, and what that says.

Everybody of one system appends lines to one file. The clock is the machine's monotonic one, the same in all processes.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# what a caller notes
SENT, ACKNOWLEDGED, REFUSED, ANSWERED, UNANSWERED = "sent", "acknowledged", "refused", "answered", "unanswered"
STARTED, DONE = "started", "done"  # what a worker notes


@dataclass(frozen=True)
class Note:
    """One line.

    Attributes:
        at: monotonic seconds.
        what: one of the words above.
        number: of the task.
        worker: who ran it; empty for a caller.
        pid: of the process that noted it.
    """

    at: float
    what: str
    number: int
    worker: str = ""
    pid: int = 0


def note(what: str, number: int) -> None:
    """Append a line to the file that ``BENCH_NOTES`` names, at once and whole.

    Args:
        what: one of the words above.
        number: of the task.
    """
    line = f"{monotonic()} {what} {number} {os.getpid()} {os.environ.get('BENCH_WORKER', '')}\n"
    os.write(_file(os.getpid()), line.encode())


def read(path: Path) -> list[Note]:
    """Return the notes of a file in the order in which they were made.

    Args:
        path: of the file.
    """
    found = []
    whole, _, _ = path.read_text().rpartition("\n")  # a line that is being written has no end yet
    for line in whole.splitlines():
        at, what, number, pid, *worker = line.split()
        found.append(Note(float(at), what, int(number), "".join(worker), int(pid)))
    return sorted(found, key=lambda one: one.at)


@dataclass(frozen=True)
class Counts:
    """What became of the tasks of one system.

    Attributes:
        acknowledged: tasks whose publish returned without an error.
        lost: of them, never run to their end.
        twice: tasks that were started more than once.
    """

    acknowledged: int
    lost: int
    twice: int


MEASURES = {
    "rerun": "the task that it ran runs again",
    "accepted": "the next publish is accepted",
    "worked": "a task published afterwards runs",
    "answered": "a caller reads the result of a task published afterwards",
}


def times(notes: Iterable[Note], fault: float, victim: int | None = None) -> dict[str, float | None]:
    """Return the seconds from a fault to each of :data:`MEASURES`, None for one that was never reached.

    Args:
        notes: of one system, in the order in which they were made.
        fault: when it happened; a publish that began earlier shows no recovery.
        victim: number of the task that the killed process ran, if one was chosen.
    """
    since = [one for one in notes if one.at >= fault]
    fresh = {one.number for one in since if one.what == SENT}

    def first(what: str, numbers: set[int]) -> float | None:
        return next((one.at - fault for one in since if one.what == what and one.number in numbers), None)

    return {
        "rerun": first(STARTED, set() if victim is None else {victim}),
        "accepted": first(ACKNOWLEDGED, fresh),
        "worked": first(STARTED, fresh),
        "answered": first(ANSWERED, fresh),
    }


def watched(called: float, worked: float) -> dict[str, float]:
    """Return for each of :data:`MEASURES` the seconds after the fault in which it would have been seen.

    Args:
        called: seconds until the callers were stopped.
        worked: seconds until the workers were.
    """
    return {"rerun": worked, "accepted": called, "worked": worked, "answered": called}


def counts(notes: Iterable[Note]) -> Counts:
    """Return what became of the tasks.

    Args:
        notes: of one system.
    """
    ordered = list(notes)
    acknowledged = {one.number for one in ordered if one.what == ACKNOWLEDGED}
    done = {one.number for one in ordered if one.what == DONE}
    starts = Counter(one.number for one in ordered if one.what == STARTED)
    return Counts(len(acknowledged), len(acknowledged - done), sum(count > 1 for count in starts.values()))


def running(notes: Iterable[Note], since: float) -> Note | None:
    """Return the last start of a task that has not ended yet, None where there is none.

    Args:
        notes: of one system, in the order in which they were made.
        since: earlier starts are too close to their end.
    """
    ordered = list(notes)
    ended = {(one.number, one.pid) for one in ordered if one.what == DONE}
    open_ = [one for one in ordered if one.what == STARTED and (one.number, one.pid) not in ended]
    return open_[-1] if open_ and open_[-1].at >= since else None


@cache
def _file(_process: int) -> int:
    return os.open(os.environ["BENCH_NOTES"], os.O_WRONLY | os.O_APPEND)

"""The metrics, and the only functions that change them. Each costs microseconds, waits for nothing and never raises."""

from __future__ import annotations

import logging
import threading
from collections import deque
from functools import cache, wraps
from time import time
from typing import TYPE_CHECKING, ParamSpec

from billiard.exceptions import SoftTimeLimitExceeded
from prometheus_client import Counter, Histogram

from holdfast import environment
from holdfast.metrics import files
from holdfast.metrics.tally import Counts, Durations

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

PORT = environment.port("HOLDFAST_METRICS_PORT")  # None: this process serves no metrics of its own
FILES = files.start(PORT is not None)  # before the metrics below: it decides where they keep their numbers

TASKS = Counts(
    "holdfast_tasks", "Messages that a worker is done with, by what became of them.", ["task", "queue", "state"]
)
RUNTIME = Durations(
    "holdfast_task_runtime_seconds",
    "How long tasks ran, whatever their end.",
    (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 1800),
)
QUEUE_WAIT = Durations(
    "holdfast_task_queue_wait_seconds",
    "Time between publishing a task, or its eta, and the start of the run.",
    (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600),
)
OF_TASKS = (TASKS, RUNTIME, QUEUE_WAIT)
PUBLISHES = Counter("holdfast_publishes", "Task messages by how publishing ended.", ["outcome"])
PUBLISH = Histogram(
    "holdfast_publish_seconds",
    "How long callers waited for the end of a publish; messages of a bulk are not in it.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)
TICKS = Counter("holdfast_beat_ticks", "Ticks of beat by what became of them.", ["outcome"])
STORED = Counter("holdfast_results_stored", "Final states of tasks that the result store keeps for good.")
STORE_RETRIES = Counter("holdfast_result_store_retries", "Commands repeated because the result store was away.")

_publishes = cache(PUBLISHES.labels)  # the library's own look-up costs as much as counting

OUTCOMES = (
    "acknowledged",
    "nacked",
    "returned",
    "timed_out",
    "blocked",
    "disconnected",
    "unreachable",
    "refused",
    "outbox",
)
for _outcome in OUTCOMES:  # from 0 on, so that the first one that is not acknowledged is an increase
    _publishes(_outcome)
for _outcome in ("sent", "given_up"):  # likewise
    TICKS.labels(_outcome)


class Progress:
    """When a worker last began or ended something.

    Attributes:
        at: seconds since the epoch.
    """

    at = time()


class Beat:
    """What beat cannot serve.

    Attributes:
        refused: how many entries of the schedule that are.
    """

    refused = 0


class _Here(threading.local):
    """What this thread counts now: a metric's lock is no reentrant one, and a signal handler may count, too."""

    busy = False

    def __init__(self) -> None:
        self.later: deque[Callable[[], None]] = deque()


_here = _Here()


P = ParamSpec("P")


def _harmless(count: Callable[P, None]) -> Callable[P, None]:
    """Let a function count where that is allowed, and give up counting in this process when it fails.

    What a signal handler or ``__del__`` counts in the middle of another count of its thread is added after that one.
    """
    working = True

    @wraps(count)
    def counted(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal working
        if not working or (FILES and not FILES.counting):
            return
        if _here.busy:
            _here.later.append(lambda: count(*args, **kwargs))
            return
        try:
            _here.busy = True
            count(*args, **kwargs)
            while _here.later:
                _here.later.popleft()()
        except SoftTimeLimitExceeded:
            raise  # it is meant for the task, wherever it strikes
        except Exception as error:  # noqa: BLE001 - whatever it is, no task may notice
            working = False
            logger.warning("metrics: this process stops %s: %r", count.__name__, error)
        finally:
            _here.busy = False

    return counted


@_harmless
def task_started(task: str, wait: float | None) -> None:
    """Count the start of a run.

    Args:
        task: its name.
        wait: seconds since it was published, None when the publisher did not say when that was.
    """
    Progress.at = time()
    if wait is not None:
        QUEUE_WAIT.add(task, max(0.0, wait))  # the clocks of two hosts differ


@_harmless
def task_ended(task: str, queue: str, state: str, runtime: float | None = None) -> None:
    """Count a message that a worker is done with.

    Args:
        task: its name.
        queue: where the message came from.
        state: ``succeeded``, ``failed``, ``retried``, ``put_back``, ``dead_lettered`` or ``revoked``.
        runtime: seconds, None when it did not run.
    """
    Progress.at = time()
    TASKS.add(task, queue, state)
    if runtime is not None:
        RUNTIME.add(task, runtime)


@_harmless
def published(outcome: str, seconds: float | None = None) -> None:
    """Count the end of a publish.

    Args:
        outcome: one of :data:`OUTCOMES`.
        seconds: how long the caller waited; None for a message of a bulk.
    """
    _publishes(outcome).inc()
    if seconds is not None:
        PUBLISH.observe(seconds)


@_harmless
def result_stored(count: int = 1) -> None:
    """Count final states that are stored for good."""
    STORED.inc(count)


@_harmless
def store_retried() -> None:
    """Count a command to the result store that has to be repeated."""
    STORE_RETRIES.inc()


@_harmless
def ticked(outcome: str) -> None:
    """Count a tick of beat.

    Args:
        outcome: ``sent``, or ``given_up`` when no broker will ever take it.
    """
    TICKS.labels(outcome).inc()


@_harmless
def entries_refused(count: int) -> None:
    """Note how many entries of the schedule beat leaves out.

    Args:
        count: of this moment.
    """
    Beat.refused = count

"""What a worker's main process counts for each task, as plain numbers in its memory.

In a worker, metrics of prometheus_client keep their numbers in a file that children write, too. Those of many tasks
outgrow the blocks that are allocated for it, and writing to the rest of the file on a full disk kills the process. Only
the main process counts these, so they need no file. The page reads them without a lock: one that is held while a child
is forked is held in it for ever.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import REGISTRY, Collector
from prometheus_client.utils import INF, floatToGoString
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import CollectorRegistry, Metric


class Counts(Collector):
    """A counter with labels.

    Args:
        name: without ``_total``.
        text: what it counts.
        labels: their names.
        registry: where it is shown.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry = REGISTRY) -> None:
        self._about = name, text
        self._labels = labels
        self._rows: dict[tuple[str, ...], int] = {}
        self._lock = Lock()  # in a pool of threads, several count
        registry.register(self)

    def add(self, *values: str) -> None:
        """Count one.

        Args:
            values: of the labels.
        """
        with self._lock:
            self._rows[values] = self._rows.get(values, 0) + 1

    @override
    def collect(self) -> Iterator[Metric]:
        """Return the numbers of this moment."""
        family = CounterMetricFamily(*self._about, labels=self._labels)
        for values, count in tuple(self._rows.items()):
            family.add_metric(values, count)
        yield family


class Durations(Collector):
    """A histogram of seconds for each task.

    Args:
        name: of the metric.
        text: what lasts so long.
        bounds: upper ends of the buckets in seconds, without infinity.
        registry: where it is shown.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry = REGISTRY) -> None:
        self._about = name, text
        self._bounds = bounds
        self._names = [floatToGoString(bound) for bound in (*bounds, INF)]  # type: ignore[no-untyped-call]  # untyped there
        self._rows: dict[str, list[float]] = {}  # a number for each bucket, then the sum
        self._lock = Lock()
        registry.register(self)

    def add(self, task: str, seconds: float) -> None:
        """Count one run.

        Args:
            task: its name.
            seconds: how long it was.
        """
        with self._lock:
            row = self._rows.get(task)
            if row is None:
                row = self._rows[task] = [0.0] * (len(self._names) + 1)
            row[bisect_left(self._bounds, seconds)] += 1
            row[-1] += seconds

    @override
    def collect(self) -> Iterator[Metric]:
        """Return the numbers of this moment."""
        family = HistogramMetricFamily(*self._about, labels=["task"])
        for task, row in tuple(self._rows.items()):
            *counts, total = row.copy()
            family.add_metric([task], list(zip(self._names, accumulate(counts), strict=True)), total)
        yield family

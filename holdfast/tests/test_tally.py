"""The worker's own numbers say what those of prometheus_client would."""

from __future__ import annotations

from threading import Thread

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest

from holdfast.metrics import numbers
from holdfast.metrics.tally import Counts, Durations

BOUNDS = (0.01, 0.5, 1, 60)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0, 60.0, 61.5]))))
def test_a_page_shows_the_same_as_with_the_library(runs: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts("n", "runs", ["task", "state"], ours)
    durations = Durations("seconds", "how long", BOUNDS, ours)
    counter = Counter("n", "runs", ["task", "state"], registry=theirs)
    histogram = Histogram("seconds", "how long", ["task"], buckets=BOUNDS, registry=theirs)
    for task, seconds in runs:
        counts.add(task, "done")
        durations.add(task, seconds)
        counter.labels(task, "done").inc()
        histogram.labels(task).observe(seconds)
    page = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == page


def test_threads_lose_no_count() -> None:
    registry = CollectorRegistry()
    counts, durations = Counts("n", "runs", ["task"], registry), Durations("seconds", "how long", BOUNDS, registry)

    def count() -> None:
        for _ in range(2000):
            counts.add("a")
            durations.add("a", 1.0)

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = {"task": "a"}
    names = ("n_total", "seconds_count", "seconds_sum")
    assert [registry.get_sample_value(name, labels) for name in names] == [8000] * 3


def test_a_worker_without_a_page_of_its_own_shows_them_in_the_default_registry() -> None:
    numbers.TASKS.add("some", "default", "succeeded")
    labels = {"task": "some", "queue": "default", "state": "succeeded"}
    assert REGISTRY.get_sample_value("holdfast_tasks_total", labels) == 1

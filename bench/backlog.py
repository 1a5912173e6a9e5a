"""A queue in which very many messages wait, against an empty one."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from statistics import median
from time import monotonic, sleep
from typing import Any, Protocol

from bench import cluster, meter
from bench.__main__ import compare
from bench.cases import LAYER
from bench.report import Case, Sample
from bench.sides import Side, measured, running, surroundings
from bench.worker import Worker

PUBLISHED = 5000  # messages in one measurement
_GOAL = 0.8  # of the rate on an empty queue
_FLAT = 1 / _GOAL  # highest ratio of memory or time with a backlog to that without
_FILL = 10_000  # messages between two looks at the brokers' memory
_PAUSE = 3  # seconds; not until the memory falls: what is in memory is written when more comes
_FILLING = 0.7  # share of the time for filling, at most
_WARM_UP, _DRAINED = 200, 1000  # tasks of a worker: before its measurement, and in it


class Publishing(Protocol):
    """What publishes, as :class:`bench.sides.Running` does."""

    def publish(self, count: int) -> None:
        """Publish messages."""


@dataclass(frozen=True)
class Drained:
    """A worker that took tasks from queues.

    Attributes:
        sample: its rate.
        first: seconds from its start to its first task.
        memory: of its main process, in bytes.
    """

    sample: Sample
    first: float
    memory: int


def drain(*queues: str) -> Drained:
    """Start a worker on queues where enough tasks wait, and measure it once it is warm."""
    begin = monotonic()
    worker = Worker("celery", surroundings(LAYER, *queues))

    def used() -> float:
        return meter.servers() + meter.groups(worker.group)

    try:
        worker.reach(1)
        first = monotonic() - begin
        worker.reach(_WARM_UP)
        before = worker.ran
        sample = measured(_DRAINED, lambda: worker.reach(before + _DRAINED), used, used)
        return Drained(sample, first, meter.resident(worker.group))
    finally:
        worker.end()


def fill(one: Publishing, waiting: int, until: float) -> tuple[int, dict[str, int]]:
    """Publish messages that stay, and return how many there were time for, and the brokers' highest memory meanwhile.

    Args:
        one: a client that keeps what waits.
        waiting: how many are wanted.
        until: when no further ones are published, on the monotonic clock.
    """
    there, most = 0, meter.brokers()
    while there < waiting and monotonic() < until:
        if cluster.pressed():  # time to write what they have: a blocked publish would end in an error
            sleep(_PAUSE)
        one.publish(part := min(_FILL, waiting - there))
        there += part
        most = {name: max(most[name], now) for name, now in meter.brokers().items()}
        if there % (10 * _FILL) == 0:
            note(f"{there:,} of {waiting:,} messages wait")
    return there, most


def backlog(waiting: int, rounds: int, until: float) -> tuple[list[Case], list[dict[str, Any]]]:
    """Compare a queue in which very many messages wait with an empty one.

    Args:
        waiting: messages.
        rounds: pairs for each ratio, at most.
        until: when no further pair begins, on the monotonic clock; the first one does always.

    Returns:
        The rates; and memory and times as :func:`beside` makes them.
    """
    plain = Side("publish_many", "publish_many")
    with running(replace(plain, keep=True), "bench") as full, running(plain, "bench2") as empty:
        empty.run(10 * _FILL)
        empty.run(1)  # finds the queue empty again; the brokers have seen work, as before any backlog
        memory = meter.brokers()
        there, most = fill(full, waiting, monotonic() + (until - monotonic()) * _FILLING)
        words = f"{there:,} waiting", "an empty queue"
        publish = Case("publish, backlog", *words, _GOAL, "wall")
        publish.pairs += compare(
            lambda: full.run(PUBLISHED), lambda: empty.run(PUBLISHED), rounds, monotonic() + (until - monotonic()) / 2
        )
        workers: dict[str, list[Drained]] = {"bench": [], "bench2": []}

        def drained(queue: str) -> Sample:
            workers[queue].append(drain(queue))
            return workers[queue][-1].sample

        def drained_empty() -> Sample:
            empty.run(_WARM_UP + 2 * _DRAINED)
            return drained("bench2")

        worker = Case("drain, backlog", *words, _GOAL, "wall")
        worker.pairs += compare(lambda: drained("bench"), drained_empty, rounds, until)
        now = meter.brokers()
        queue = cluster.state("bench")
    above, below = workers["bench"], workers["bench2"]
    mega = 2**20
    figures = [
        *(
            beside(
                f"memory of {name} in MiB ({most[name] / mega:,.0f} while it was filled)",
                before / mega,
                now[name] / mega,
            )
            for name, before in memory.items()
        ),
        beside(
            "memory of the worker's main process in MiB",
            median(each.memory for each in below) / mega,
            median(each.memory for each in above) / mega,
        ),
        beside(
            "seconds from a worker's start to its first task",
            median(each.first for each in below),
            median(each.first for each in above),
        ),
    ]
    note(f"{queue['messages']:,} messages wait, of {queue['message_bytes'] / queue['messages']:,.0f} bytes each")
    return [publish, worker], figures


def note(words: str) -> None:
    """Say how far it is."""
    print(f"  {words}", file=sys.stderr, flush=True)


def beside(name: str, without: float, given: float) -> dict[str, Any]:
    """Return a figure without and with a backlog, and whether it stayed flat.

    Args:
        name: what it is.
        without: the figure on an empty queue.
        given: the figure with the backlog.
    """
    ratio = given / without
    return {"name": name, "without": without, "with": given, "ratio": ratio, "flat": ratio <= _FLAT}


def flatness(figures: list[dict[str, Any]]) -> str:
    """Return memory and times as a Markdown table.

    Args:
        figures: as :func:`beside` makes them.
    """
    rows = ["| what | empty queue | backlog | ratio | goal | verdict |", "|---" * 6 + "|"]
    rows += [
        f"| {each['name']} | {each['without']:,.1f} | {each['with']:,.1f} | {each['ratio']:.2f} | at most {_FLAT:g} "
        f"| {'reached' if each['flat'] else 'short'} |"
        for each in figures
    ]
    return "\n".join(rows)

"""``python -m bench.growth``: the speed with a backlog, more queues, more connections, larger bodies."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from bench.__main__ import finish
from bench.backlog import PUBLISHED, backlog, drain, flatness, note
from bench.report import ENOUGH, Case, Sample, unjudged
from bench.sides import Side, running

if TYPE_CHECKING:
    from collections.abc import Sequence

_MINUTES = 11.0  # after which no round begins; one takes up to two
_BACKLOG = 0.6  # its share of the time


@dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        side: what publishes.
        queues: how many queues it publishes to.
    """

    side: Side
    queues: int = 1


@dataclass(frozen=True)
class Curve:
    """What grows; the first point is what the others are compared with.

    Attributes:
        points: in ascending order.
        count: messages in one measurement.
        drains: True also measures a worker that takes what was published.
    """

    points: tuple[Point, ...]
    count: int = PUBLISHED
    drains: bool = True


CURVES = {
    "queues": Curve(
        tuple(Point(Side(f"{n} queue{'s' * (n > 1)}", "publish_many, queues in turn"), n) for n in (1, 2, 4, 8)),
    ),
    "connections": Curve(
        tuple(
            Point(Side(f"{n:,} connection{'s' * (n > 1)}", "raw py-amqp", environment={"BENCH_CONNECTIONS": str(n)}))
            for n in (1, 10, 100, 1000)
        ),
        drains=False,
    ),
    "bodies": Curve(
        tuple(
            Point(Side(f"{n} KiB", "publish_many", environment={"BENCH_BODY": str(n * 1024)})) for n in (1, 4, 16, 64)
        ),
        count=2000,
    ),
}


def follow(curve: Curve, rounds: int, until: float) -> list[Case]:
    """Measure all points of a curve, up and down in turn, each in processes and on queues of its own.

    Args:
        curve: what is measured.
        rounds: how often each point is measured, at most.
        until: when no further round begins, on the monotonic clock; the first one does always.
    """
    published: list[list[Sample]] = [[] for _ in curve.points]
    drained: list[list[Sample]] = [[] for _ in curve.points]
    for turn in range(rounds):
        if turn and monotonic() > until:
            break
        note(f"round {turn + 1} of {rounds}")
        for index in order(turn, len(curve.points)):
            point = curve.points[index]
            queues = [f"bench-{n}" for n in range(point.queues)]
            with running(point.side, *queues) as one:
                published[index].append(one.run(curve.count))
                if curve.drains:
                    drained[index].append(drain(*queues).sample)
    names = [point.side.name for point in curve.points]
    cases = ratios("publish", names, published)
    return cases + (ratios("drain", names, drained) if curve.drains else [])


def order(turn: int, points: int) -> Sequence[int]:
    """Return in which order points are measured: up and down in turn, so that a drift meets all alike.

    Args:
        turn: number of the round.
        points: how many there are.
    """
    return range(points) if turn % 2 == 0 else range(points - 1, -1, -1)


def ratios(name: str, points: Sequence[str], samples: Sequence[Sequence[Sample]]) -> list[Case]:
    """Return the comparison of each further point with the first one, round by round.

    Args:
        name: what is done at each point.
        points: what each point is called.
        samples: of each point, one for a round.
    """
    below = samples[0]
    return [
        Case(f"{name}, {point}", point, points[0], None, pairs=list(zip(above, below, strict=True)))
        for point, above in zip(points[1:], samples[1:], strict=True)
    ]


def main() -> None:
    """Measure, print the tables, write the JSON and the picture."""
    parts = ["backlog", *CURVES]
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(parts)} (default: all)")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="messages that wait (default: 1000000)")
    parser.add_argument("--rounds", type=int, default=ENOUGH, help=f"of each measurement (default: {ENOUGH})")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help=f"time for all (default: {_MINUTES:g})")
    parser.add_argument("--json", type=Path, default=Path("build/growth.json"), help="where the figures go")
    options = parser.parse_args()
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"found {', '.join(sorted(unknown))}; the parts are {', '.join(parts)}")
    wanted = options.parts or parts
    done: list[Case] = []
    flat: list[dict[str, Any]] = []
    end = monotonic() + options.minutes * 60
    for number, name in enumerate(wanted):
        print(f"{number + 1} of {len(wanted)}: {name} ...", file=sys.stderr, flush=True)
        left = end - monotonic()
        if name == "backlog":  # filling the queue takes most of the time
            share = 1.0 if len(wanted) == 1 else _BACKLOG
            cases, flat = backlog(options.waiting, options.rounds, monotonic() + left * share)
            done += cases
        else:
            done += follow(CURVES[name], options.rounds, monotonic() + left / (len(wanted) - number))
    figures = finish(done, options.json, backlog=flat)
    if flat:
        print(f"\n{flatness(flat)}")
    if missing := unjudged([case for case in figures if case["goal"] is not None], "make bench-growth PARTS=backlog"):
        print(f"\n{missing}")


if __name__ == "__main__":
    main()

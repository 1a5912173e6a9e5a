"""``python -m bench``: measure every ratio on the running stack."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from bench import cluster
from bench.cases import CASES, Comparison
from bench.picture import svg
from bench.report import ENOUGH, Case, Sample, changes, table, unjudged
from bench.sides import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MINUTES = 11.0  # after which no measurement begins, so that a run ends within 12


def compare(
    above: Callable[[], Sample], below: Callable[[], Sample], pairs: int, until: float
) -> Iterator[tuple[Sample, Sample]]:
    """Yield pairs of samples in the order A-B-B-A, so that a drift of the machine meets both alike.

    Args:
        above: measures the numerator.
        below: measures the denominator.
        pairs: how many, at most.
        until: when no further pair begins, on the monotonic clock; the first one does always.
    """
    for turn in range(pairs):
        if turn and monotonic() > until:
            return
        if turn % 2 == 0:
            first = above()
            yield first, below()
        else:
            second = below()
            yield above(), second


def measure(comparison: Comparison, pairs: int, scale: float, until: float) -> Case:
    """Measure one of :data:`bench.cases.CASES`."""
    above, below = comparison.above, comparison.below
    case = Case(comparison.name, above.name, below.name, comparison.goal, comparison.by)
    count = max(64, int(comparison.count * scale))
    with running(above, "bench") as one, running(below, "bench2") as other:
        case.pairs += compare(lambda: one.run(count), lambda: other.run(count), pairs, until)
    return case


def main() -> None:
    """Measure, print the table, write the JSON and the picture."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of: {', '.join(CASES)} (default: all)")
    parser.add_argument("--pairs", type=int, default=ENOUGH, help=f"pairs for each ratio (default: {ENOUGH})")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of messages (default: 1)")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help=f"time for all (default: {_MINUTES:g})")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with the JSON of another run")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    options = parser.parse_args()
    unknown = set(options.cases) - CASES.keys()
    if unknown:
        parser.error(f"found {', '.join(sorted(unknown))}; the cases are {', '.join(CASES)}")
    saved = json.loads(options.against.read_text()) if options.against else None
    wanted = options.cases or list(CASES)
    done: list[Case] = []
    left_out: dict[str, str] = {}
    end = monotonic() + options.minutes * 60
    for number, name in enumerate(wanted):
        print(f"{number + 1} of {len(wanted)}: {name} ...", file=sys.stderr, flush=True)
        if reason := CASES[name].lacks():
            left_out[name] = reason
            continue
        until = monotonic() + (end - monotonic()) / (len(wanted) - number)
        done.append(measure(CASES[name], options.pairs, options.scale, until))
        print(table([done[-1].figures()]).splitlines()[-1], file=sys.stderr, flush=True)
    figures = finish(done, options.json, left_out=left_out)
    for name, reason in left_out.items():
        print(f"\n`{name}` was left out: {reason}")
    if missing := unjudged(figures, 'make bench CASES="{}"'):
        print(f"\n{missing}")
    if saved:
        print(f"\nAgainst {options.against}:\n\n{changes(figures, saved['cases'])}")


def finish(done: list[Case], path: Path, **more: Any) -> list[dict[str, Any]]:
    """Print the table, write the JSON and the picture, and return the figures of all cases.

    Args:
        done: what was measured.
        path: of the JSON; the picture is beside it.
        more: what else the JSON holds.
    """
    load = os.getloadavg()[0]
    machine = {"cores": os.cpu_count(), "load": load, "python": platform.python_version(), **cluster.versions()}
    figures = [case.figures() for case in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "cases": figures, **more}, indent=2) + "\n")
    path.with_suffix(".svg").write_text(svg(figures))
    print(table(figures))
    others = max((case.others for case in done), default=0.0)
    print(f"\nOthers used up to {others:.1f} of {os.cpu_count()} processors; load {load:.1f} at the end.")
    print(f"Written: {path} and {path.with_suffix('.svg')}.")
    return figures


if __name__ == "__main__":
    main()

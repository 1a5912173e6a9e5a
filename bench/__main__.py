"""``python -m bench``: measure every ratio on the running stack."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench import cluster
from bench.report import Case, table
from bench.worker import drain, processor, wall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CASES = {
    # name: numerator, denominator, goal, messages in one measurement
    "durable_eff": ("publish_many", "raw py-amqp", 0.80, 5000),
    "durable_eff_pika": ("publish_many", "raw pika", 0.80, 5000),
    "pipelining_gain": ("publish_many", "stock, confirmed, one by one", 10, 1000),
    "group_commit": ("layer, 64 callers", "stock, unconfirmed, 64 callers", 0.90, 3200),
    "group_commit_gain": ("layer, 64 callers", "stock, confirmed, 64 callers", None, 3200),
    "single_caller": ("layer, one by one", "stock, confirmed, one by one", None, 500),
    "drill_ledger": ("layer, 64 callers, with the drill's ledger", "layer, 64 callers", 0.95, 3200),
    "durable_results": ("result on all disks", "result, stock", None, 500),
}
WORKERS = {
    # name: numerator, denominator, goal; what each worker finds in its environment; the clock
    "late_ack": (
        ("worker, late acknowledgement", "worker, early acknowledgement", 0.85),
        ({"BENCH_ACKS_LATE": "1"}, {"BENCH_ACKS_LATE": "0"}),
        wall,
    ),
    "metrics": (
        ("tasks per CPU second, metrics", "neither metrics nor events", 0.97),
        ({"BENCH_MONITORING": "1", "HOLDFAST_METRICS_PORT": "9549"}, {"BENCH_MONITORING": "0"}),
        processor,
    ),
    "monitoring": (
        ("tasks per CPU second, metrics and events", "neither metrics nor events", 0.97),
        ({"BENCH_MONITORING": "1", "BENCH_EVENTS": "1", "HOLDFAST_METRICS_PORT": "9549"}, {"BENCH_MONITORING": "0"}),
        processor,
    ),
}
WORKER_TASKS = 2000


class Client:
    """A client in a process of its own."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-m", "bench.clients", name]
        environment = os.environ | cluster.environment()
        self._child = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._name = name

    def run(self, count: int) -> float:
        """Handle ``count`` messages and return the rate per second."""
        assert self._child.stdin is not None  # noqa: S101 - opened as pipes
        assert self._child.stdout is not None  # noqa: S101 - as above
        self._child.stdin.write(f"{count}\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            raise SystemExit(f"the client {self._name!r} ended in the middle of the benchmark; its error stands above")
        return float(json.loads(answer)["rate"])

    def end(self) -> None:
        """Stop the process."""
        self._child.kill()
        self._child.communicate()


def compare(above: Callable[[], float], below: Callable[[], float], pairs: int) -> Iterator[tuple[float, float]]:
    """Yield pairs of rates in the order A-B-B-A, so that a drift of the machine meets both alike."""
    for turn in range(pairs):
        if turn % 2 == 0:
            first = above()
            yield first, below()
        else:
            second = below()
            yield above(), second


@contextmanager
def clients(*names: str) -> Iterator[list[Client]]:
    """Start clients and warm them up; stop them at the end."""
    with ExitStack() as stack:
        found = []
        for name in names:
            client = Client(name)
            stack.callback(client.end)
            client.run(200)
            found.append(client)
        yield found


def measure(name: str, pairs: int, scale: float) -> Case:
    """Measure one comparison of :data:`CASES`."""
    above, below, goal, count = CASES[name]
    case = Case(name, above, below, goal)
    count = max(64, int(count * scale))
    with clients(above, below) as (one, other):

        def fresh(client: Client) -> Callable[[], float]:
            def rate() -> float:
                cluster.purge()
                return client.run(count)

            return rate

        case.pairs += compare(fresh(one), fresh(other), pairs)
    return case


def measure_worker(name: str, pairs: int, scale: float) -> Case:
    """Compare two workers of :data:`WORKERS`."""
    words, (above, below), clock = WORKERS[name]
    case = Case(name, *words)
    count = max(200, int(WORKER_TASKS * scale))
    with clients("publish_many") as (bulk,):

        def rate(variant: dict[str, str]) -> float:
            cluster.purge()
            return drain(bulk.run, count, variant, clock)

        case.pairs += compare(lambda: rate(above), lambda: rate(below), pairs)
    return case


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"some of: {', '.join([*CASES, *WORKERS])} (default: all)"
    )
    parser.add_argument("--pairs", type=int, default=6, help="pairs of measurements for each ratio (default: 6)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of messages (default: 1)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    options = parser.parse_args()
    unknown = set(options.cases) - {*CASES, *WORKERS}
    if unknown:
        parser.error(f"found {', '.join(sorted(unknown))}; the cases are {', '.join([*CASES, *WORKERS])}")
    wanted = options.cases or [*CASES, *WORKERS]
    done: list[Case] = []
    with cluster.queue():
        for name in wanted:
            print(f"{name} ...", file=sys.stderr, flush=True)
            case = (measure_worker if name in WORKERS else measure)(name, options.pairs, options.scale)
            done.append(case)
            print(table([case]).splitlines()[-1], file=sys.stderr, flush=True)
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), **cluster.versions()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps({"machine": machine, "cases": [case.figures() for case in done]}, indent=2) + "\n"
    )
    print(table(done))


if __name__ == "__main__":
    main()

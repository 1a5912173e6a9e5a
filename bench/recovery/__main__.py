"""``python -m bench.recovery``: break the running stack under every system at once, and time who is back when."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from bench import cluster
from bench.recovery.faults import FAULTS, Fault, Place, kill_worker, rotated
from bench.recovery.notes import Counts, counts, times, watched
from bench.recovery.report import ENOUGH, figures, joined, svg, table
from bench.recovery.systems import SYSTEMS, Running, System

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_MINUTES = 45.0
_START = 120.0  # seconds until all systems work
_SETTLE = 3.0  # seconds in which all of them go on working before the fault
_AFTER = 6.0  # seconds in which the callers go on after the stack is whole again
_QUIET = 15.0  # seconds in which nobody notes anything: what has not run by then is lost
_TRIES = 20  # starts of a caller; one of three is connected to a certain broker
_POLICY = "bench-recovery"


@dataclass
class Found:
    """What one system did under one fault: times and time limits of each repetition, counts of each start."""

    times: list[dict[str, float | None]] = field(default_factory=list)
    watched: list[dict[str, float]] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)


def measure(fault: Fault, systems: Sequence[System], place: Place, turns: int, until: float) -> dict[str, Found]:
    """Kill something under all systems at once, several times, and return what each of them did, by its key.

    Args:
        fault: what is killed.
        systems: who takes part.
        place: the stack.
        turns: how many times, at most.
        until: when no further one begins, on the monotonic clock; the first one does always.
    """
    found = {system.key: Found() for system in systems}
    # after the death of a node everybody begins anew: some are connected to another one, some do not work any more
    for first in range(0, turns, 1 if fault.tier else turns):
        last = first + 1 if fault.tier else turns
        if first and monotonic() > until:
            break
        with queues(systems), ExitStack() as stack:
            every = [Running(system, results=fault.results) for system in systems]
            for one in every:
                stack.callback(one.end)
            leader = _start(every, fault, place)
            hits = []
            for turn in range(first, last):
                print(f"{fault.name}, {turn + 1} of {turns} ...", file=sys.stderr, flush=True)
                hits.append(_hit(every, fault, place, leader))
                if turn + 1 == last or monotonic() > until:
                    break
                _settle(every)
            for one in every:
                one.kill("caller")
            stop = monotonic()
            _drain(every)
            for one in every:
                mine = found[one.system.key]
                told = one.notes
                own = [hit[one.system.key] for hit in hits]
                mine.times += [times(told, *hit) for hit in own]
                mine.watched += [watched(stop - moment, monotonic() - moment) for moment, _ in own]
                mine.counts.append(counts(told))
                print(f"  {one.system.name}: {mine.times[first:]}, {mine.counts[-1]}", file=sys.stderr, flush=True)
    return found


def _hit(every: list[Running], fault: Fault, place: Place, leader: Any) -> dict[str, tuple[float, int | None]]:
    """Kill under all systems, heal, and return for each the moment and the number of the task that was killed."""
    if not fault.tier:
        hit = {one.system.key: kill_worker(one, whole=fault.name == "worker") for one in every}
        sleep(fault.away)
        return hit
    moment = place.kill(fault, leader)
    sleep(fault.away)
    place.heal()
    sleep(_AFTER)
    return {one.system.key: (moment, None) for one in every}


def _start(every: list[Running], fault: Fault, place: Place) -> Any:
    """Start all processes, wait until all systems work, and return the broker that leads every queue.

    The address of a system's broker comes first that Holdfast's caller has chosen at random: it is the one that is
    killed, so that each caller loses its own connection and the leader at once.
    """
    first, *others = every
    first.call()
    _wait(lambda: bool(first.notes) and bool(first.brokers()), f"{first.system.name} to connect")
    address = first.brokers().pop()
    first.work()
    for one in others:
        one.urls = rotated(one.urls, address, apart=one.system.apart)
        one.call()
        one.work()
    _settle(every)
    leader = place.broker(address)
    if fault.tier == "rabbit":
        place.lead(leader, [one.system.queue for one in every])
        _settle(every)
        for one in every:
            _reach(one, address)
    return leader


def _reach(one: Running, address: str) -> None:
    """Start a caller until it is connected to a certain broker: some shuffle their addresses, all avoid a slow one."""
    for _ in range(_TRIES):
        if (address in one.brokers()) != one.system.apart:
            return
        one.kill("caller")
        begin = monotonic()
        one.call()
        _wait(partial(one.ready, begin), f"{one.system.name} to work")
    raise SystemExit(f"{one.system.name} is connected to {one.brokers()} after {_TRIES} starts, not as it should be")


def _settle(every: list[Running]) -> None:
    """Wait until everybody works, and still does some seconds later; start the workers that have ended meanwhile."""
    for pause in (_SETTLE, 0):
        begin = monotonic()
        for one in every:
            _wait(partial(_works, one, begin), f"{one.system.name} to work")
        sleep(pause)


def _works(one: Running, since: float) -> bool:
    one.work()  # dramatiq's stop as a whole, some time after one of their processes has died
    return one.ready(since)


def _wait(condition: Callable[[], bool], words: str) -> None:
    limit = monotonic() + _START
    while not condition():
        if monotonic() > limit:
            raise SystemExit(f"waited {_START:g} s for {words}; its logs are in build/recovery")
        sleep(0.2)


def _drain(every: list[Running]) -> None:
    """Wait until everything that was acknowledged has run, or until nothing happens any more."""
    seen, limit = 0, monotonic() + _QUIET
    while monotonic() < limit and any(counts(one.notes).lost for one in every):
        if (now := sum(len(one.notes) for one in every)) > seen:
            seen, limit = now, monotonic() + _QUIET
        sleep(0.2)


@contextmanager
def queues(systems: Sequence[System]) -> Iterator[None]:
    """Declare each system's queue, and give Holdfast's the policy of the stack's task queues; delete all at the end."""
    names = [name for system in systems for name in cluster.names(system.queue)]
    cluster.drop(*names)
    policy = cluster.api("GET", "policies/holdfast/tasks")
    ours = f"^{SYSTEMS['holdfast'].queue}$"
    cluster.api("PUT", f"policies/holdfast/{_POLICY}", policy | {"pattern": ours, "name": _POLICY})
    with ExitStack() as stack:
        stack.callback(cluster.drop, *names)
        stack.callback(cluster.api, "DELETE", f"policies/holdfast/{_POLICY}")
        for system in systems:
            if system.kind != "dramatiq":  # it declares its own, which differ
                stack.enter_context(cluster.queue(system.queue))
        yield


def main() -> None:
    """Measure, print the table, write the JSON and the picture."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"some of: {', '.join(FAULTS)} (default: all)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help=f"some of: {','.join(SYSTEMS)} (default: all)")
    parser.add_argument("--times", type=int, default=ENOUGH, help=f"repetitions of each fault (default: {ENOUGH})")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="after which no repetition begins (default: "
                        f"{_MINUTES:g})")  # fmt: skip
    parser.add_argument("--json", type=Path, default=Path("build/recovery.json"), help="where the figures go; what it "
                        "has of faults and systems that are not measured now stays")  # fmt: skip
    options = parser.parse_args()
    wanted = options.systems.split(",")
    if unknown := (set(options.faults) - FAULTS.keys()) | (set(wanted) - SYSTEMS.keys()):
        parser.error(
            f"found {', '.join(sorted(unknown))}; faults are {', '.join(FAULTS)}, systems {', '.join(SYSTEMS)}"
        )
    found: list[dict[str, Any]] = []
    versions = cluster.versions() | {name: version(name) for name in ("celery", "dramatiq", "taskiq")}
    until = monotonic() + options.minutes * 60
    place = Place()
    with place.alone():
        for name in options.faults or FAULTS:
            fault = FAULTS[name]
            systems = [SYSTEMS[key] for key in SYSTEMS if key in {"holdfast", *wanted} and fault.concerns(SYSTEMS[key])]
            about = {"load": os.getloadavg()[1], "python": platform.python_version(), **versions}
            found += [
                figures(name, key, one.times, one.watched, one.counts) | {"about": about}
                for key, one in measure(fault, systems, place, options.times, until).items()
            ]
            _write(options.json, found)
    print(table(found))
    print(f"\nWritten: {options.json} and {options.json.with_suffix('.svg')}.")


def _write(path: Path, found: list[dict[str, Any]]) -> None:
    old = json.loads(path.read_text()) if path.exists() else []
    rows = joined(old, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2) + "\n")
    path.with_suffix(".svg").write_text(svg(rows))


if __name__ == "__main__":
    main()

"""One run: load on, faults one after the other, load off, drain, judge, report."""

from __future__ import annotations

import os
import platform
import random
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import httpx
import redis

from drill import ledger, report
from drill.faults import REGISTRY, Plan, pairs
from drill.faults.record import Fault
from drill.judge import checker
from drill.judge.alerts import Watch
from drill.judge.history import History, build
from drill.load import sequence
from drill.load.pool import Pool
from drill.load.publisher import Job
from drill.run import counter, drain
from drill.targets import TargetError
from holdfast import audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from drill.faults.journal import Journal
    from drill.judge.checker import Verdict
    from drill.run.annotations import Annotations
    from drill.targets.stack import Stack

SERVER_ERRORS = (TargetError, httpx.HTTPError, redis.RedisError)
TAKE_OVER = 20.0  # seconds until others have taken over from what the first fault of a pair hit


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Attributes:
        seed: of the targets and the load.
        rate: tasks per second, over all publishers.
        publishers: processes.
        mix: weight of each kind of task.
        ways: weight of each way to publish.
        calm: seconds of load before the first fault and after each.
        drain: seconds that the queues may stay as full as they are after the load.
        recovery: seconds that the stack may take to be whole again after a fault.
        alerts: hold each fault until the alert that it must raise has had its time, and report on it.
        operated: a command of an operator runs meanwhile; extra executions are counted, and explained by it.
        audit: compare what the running audit counts with the ledger.
    """

    seed: int
    rate: float = 20.0
    publishers: int = 2
    mix: dict[str, int] | None = None
    ways: dict[str, int] | None = None
    calm: float = 4.0
    drain: float = 240.0
    recovery: float = 120.0
    alerts: bool = False
    operated: bool = False
    audit: bool = False
    app: str = "webhooks.app:app"
    ledger: str = "drill.ledger:Writer"


@dataclass
class Progress:
    """What a live view shows."""

    phase: str = "starting"
    fault: str = ""
    done: int = 0
    acknowledged: int = 0
    failed: int = 0
    depth: str = ""


class Drill:
    """Runs one drill.

    Args:
        stack: what is loaded and broken.
        options: how.
        ledgers: folder that the workers see as their ledger; the run gets a folder in it.
        journal: for healing after a crash.
        show: told about progress.
        annotations: told about faults; None where no Prometheus listens.
    """

    def __init__(
        self,
        stack: Stack,
        options: Options,
        ledgers: Path,
        journal: Journal,
        show: Callable[[Progress], None],
        *,
        annotations: Annotations | None = None,
    ) -> None:
        self.stack, self.options, self.journal = stack, options, journal
        self.run = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{options.seed}"
        self._began = time.time()
        self.folder = ledgers / self.run
        self.folder.mkdir(parents=True)
        stack.target.open_ledger(self.folder)
        self.book = ledger.Writer(self.folder / "drill.ledger", self.run, "drill")
        self.pool = Pool(self.book, self.folder, os.environ)
        self.progress = Progress()
        stack.publishers = self.pool
        self._show = show
        self.annotations = annotations
        self.watch: Watch | None = None
        self._stop = threading.Event()

    def execute(self, faults: Iterable[str]) -> tuple[History, Verdict]:
        """Run everything; heals on the way out, whatever happens.

        Args:
            faults: names, in the order in which they happen.

        Returns:
            The history and the verdict; the report is in the run's folder.
        """
        sampler = threading.Thread(target=self._sample, daemon=True)
        try:
            self._tell("checking the stack")
            self._note_meta()
            drain.prepare_tables()
            if self.options.alerts:
                self.watch = Watch(self.stack.prometheus())
            self._start_load()
            if self.annotations:
                self.annotations.start()
            sampler.start()
            time.sleep(self.options.calm)
            rng = random.Random(self.options.seed)  # noqa: S311 - repeatable, not secret
            for number, name in enumerate(faults, start=1):
                self.inject(f"{number}-{name}", name, random.Random(rng.random()))  # noqa: S311 - as above
                self.progress.done = number
            self._finish()
        except BaseException as error:
            self._unchecked(f"the drill was cut short: {type(error).__name__} {error}")
            if not isinstance(error, (KeyboardInterrupt, *SERVER_ERRORS)):
                raise
        finally:
            self._stop.set()
            for problem in self.pool.stop(30):
                self._unchecked(problem)
            for problem in self.journal.heal(self.stack):
                self._unchecked(f"healing failed: {problem}")
            self._fetch()
            if sampler.is_alive():
                sampler.join(10)
            if self.annotations:
                self.annotations.stop()
            self.book.close()
        return judge(self.folder)

    def inject(self, key: str, name: str, rng: random.Random) -> Fault:
        """Apply a fault or a pair, prove it, hold it, heal it, prove that, and wait until the stack is whole again."""
        record = Fault(key, name, [], apply_at=time.time())
        plans: list[Plan] = []
        try:
            for part in pairs.parts(name):
                self._add(part, plans, rng, record)
            record.bounds = pairs.bounds(name, plans, pairs.sizes(self.stack))
            record.silent = pairs.silent(self.stack, name, plans)
            self._tell("holding", record.key)
            # one more evaluation than allowed: a late alert is then seen to be late
            late = self.watch.allowed(name) + self.watch.interval if self.watch else 0.0
            hold = max(late, *(plan.hold for plan in plans))
            time.sleep(max(0.0, record.applied_at + hold - time.time()))
            record.heal_at = time.time()
        except (*SERVER_ERRORS, LookupError, ValueError) as error:
            record.problem = f"{type(error).__name__}: {error}"
        finally:
            record.heal_at = record.heal_at or time.time()
            self._tell("healing", key)
            problems = self.journal.heal(self.stack)
        if record.applied_at and not problems:
            record.healed = self._all([plan.healed for plan in plans], self.options.recovery)
        record.healed_at = time.time()
        self._annotate(record, lasts=False)
        self._tell("recovering", key)
        problems += self.stack.wait_healthy(self.options.recovery)
        self._tell("calm")
        time.sleep(self.options.calm)
        record.settled_at = time.time()
        record.problem = "; ".join(filter(None, [record.problem, *problems]))
        self.book.commit(self.book.append("fault", **asdict(record)))
        return record

    def _add(self, part: str, plans: list[Plan], rng: random.Random, record: Fault) -> None:
        """Apply a single fault beside those of ``plans``, which must still hold when it is proven."""
        self._tell(f"planning {part}", record.key)
        if plans:  # whoever takes over from what the first one hit may still be elected
            seed = rng.random()  # however often the choice is made, it is the same

            def planned() -> Plan | None:
                return pairs.plan(self.stack, part, plans, random.Random(seed))  # noqa: S311 - repeatable, not secret

            plan = self.stack.wait(planned, TAKE_OVER)
            if plan is None:
                raise TargetError(f"{part} found nothing within {TAKE_OVER:g} s that the first fault does not hold.")
        else:
            plan = REGISTRY[part].plan(self.stack, rng)
        plans.append(plan)
        record.targets = [target for one in plans for target in one.targets]
        record.unacked += self._unacked(record, first=len(plans) == 1)
        self.journal.open([step for one in reversed(plans) for step in one.undo])
        self._tell(f"breaking {', '.join(plan.targets)}", record.key)
        if len(plans) == 1:
            record.apply_at = time.time()
            self._annotate(record, lasts=True)
        plan.apply()
        record.applied_at = time.time()
        record.proof = self._all([one.proof for one in plans], 30)

    def _unacked(self, record: Fault, *, first: bool) -> int:
        """Return how many tasks are with a worker; as many as before the first fault while no broker can say it.

        A leader that is frozen or cut off answers nobody. What workers may hold at most stays the same.
        """
        try:
            return self.stack.depth()["unacked"]
        except SERVER_ERRORS:
            if first:
                raise
            return record.unacked

    def _all(self, proofs: list[Callable[[], str]], timeout: float) -> str:
        """Return what all proofs say; empty unless each says something within ``timeout`` seconds."""
        said = [self.stack.wait(proof, timeout) or "" for proof in proofs]
        return "; ".join(said) if all(said) else ""

    def _annotate(self, fault: Fault, *, lasts: bool) -> None:
        if self.annotations:
            self.annotations.show(fault.name, lasts=lasts)

    def _start_load(self) -> None:
        problems = self.stack.wait_healthy(60)
        if problems:
            raise TargetError(f"The stack is not healthy before any fault: {'; '.join(problems)}. Next: make status")
        options = self.options
        if options.audit and not audit.share(self.stack.app):
            raise TargetError("No task is audited here. Allowed: a share above 0. Next: set HOLDFAST_AUDIT_SHARE")
        ways = dict(options.ways or sequence.WAYS)
        if not self.stack.tier("relay"):
            ways.pop("outbox", None)  # nobody would publish its rows
        for number in range(options.publishers):
            self.pool.start(
                Job(
                    folder=str(self.folder),
                    run=self.run,
                    name=f"p{number}",
                    seed=options.seed * 1000 + number,
                    rate=options.rate / options.publishers,
                    threads=4,
                    mix=options.mix or sequence.MIX,
                    ways=ways,
                    app=options.app,
                    ledger=options.ledger,
                )
            )
        self._tell("waiting for the first task")
        if not self.stack.wait(self._first_task, 60):
            raise TargetError(
                "No task of the drill ended within 60 s. Workers need HOLDFAST_IMPORTS=drill.tasks, and a folder for "
                "the ledger that their user may write to (docs/how-to/drill.md). Next: read the log of a worker"
            )

    def _fetch(self) -> None:
        """Bring the rest of the workers' ledgers; without them nothing is certain."""
        try:
            self.stack.target.fetch_ledger(self.folder)
        except TargetError as error:
            self._unchecked(f"ledgers are missing: {error}")

    def _first_task(self) -> bool:
        """Whether a worker has written to the ledger."""
        self.stack.target.fetch_ledger(self.folder)
        return len(list(self.folder.glob("*.ledger"))) > self.options.publishers + 1

    def _finish(self) -> None:
        self._tell("stopping the load")
        for problem in self.pool.stop(30):
            self._unchecked(problem)
        self._tell("draining")
        left = drain.wait_empty(
            self.stack, self.folder, self.options.drain, lambda text: self._tell(f"draining: {text}")
        )
        left += self.stack.wait_healthy(30)
        self._tell("reading results and effects")
        drain.collect(self.stack, self.book, self.folder, self.run)
        ledger.flush(self.folder)  # before the record without which no run passes: no attempt is only in memory then
        self.book.append("drained", ok=not left, why=left)
        if self.options.audit:
            self._tell("waiting until the audit can judge all tasks")
            self.book.append("audit", **counter.count(self.stack, self.run))
        if self.watch:
            self._tell("waiting until the alerts are over")
            self.watch.wait_resolved()
            spans = [asdict(span) for span in self.watch.spans(self._began, time.time())]
            self.book.append("alerts", limits=self.watch.limits(), spans=spans)

    def _note_meta(self) -> None:
        values = {
            "options": asdict(self.options),
            "target": self.stack.target.name,
            "settings": asdict(self.stack.settings),
            "versions": {
                "Holdfast": version("celery-holdfast"),
                "Celery": version("celery"),
                "Python": platform.python_version(),
                "kernel": platform.release(),
                "cores": str(os.cpu_count()),
                **self.stack.versions(),
            },
        }
        self.book.append("meta", values=values)

    def _sample(self) -> None:
        """Note queue depth each second."""
        while not self._stop.wait(1):
            try:
                depth = self.stack.depth()
            except (*SERVER_ERRORS, KeyError):
                continue  # nobody answers in the middle of a fault; the timeline shows the hole
            self.book.append("sample", values=depth)
            self.progress.depth = ", ".join(f"{number} {name}" for name, number in depth.items() if number)
            self._tell(self.progress.phase, self.progress.fault)

    def _unchecked(self, why: str) -> None:
        self.book.append("unchecked", why=[why])

    def _tell(self, phase: str, fault: str = "") -> None:
        totals = self.pool.totals()
        self.progress.phase, self.progress.fault = phase, fault
        self.progress.acknowledged, self.progress.failed = totals["acknowledged"], totals["failed"]
        self._show(self.progress)


def judge(folder: Path) -> tuple[History, Verdict]:
    """Read a run's ledger, judge it, and write its report.

    Args:
        folder: of the run; its name is the run's id.
    """
    history = build(ledger.read_all(folder, folder.name), folder.name)
    verdict = checker.judge(history)
    report.write(history, verdict, folder)
    return history, verdict

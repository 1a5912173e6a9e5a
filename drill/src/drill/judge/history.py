"""What happened in a run, as sets and times, built from the ledger's books and from nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drill.faults.record import Bound, Fault
from drill.judge.alerts import Span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drill.ledger import Book

ACKNOWLEDGED = ("acknowledged", "stored")  # confirmed by the broker, or committed to the outbox: both are promises


@dataclass(frozen=True, slots=True)
class Attempt:
    """A publish that was called.

    Attributes:
        task: kind of the task.
        path: way of the publish: single, bulk, outbox, worker.
        poison: it must end in the dead-letter queue instead of running.
        at: Unix time.
    """

    task: str
    path: str
    poison: bool
    at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a publish ended: ``acknowledged``, ``stored``, or ``error`` (it may be in the broker all the same)."""

    result: str
    at: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a task's body.

    Attributes:
        retries: Celery's own count; each retry is a run of its own.
        worker: host that ran it.
        start: Unix time by the worker's clock.
        end: None when the body did not reach its end.
        final: False for a run that ended in a retry: the task is not done.
    """

    retries: int
    worker: str
    start: float
    end: float | None
    final: bool = True


@dataclass(slots=True)
class History:
    """Everything the checker needs.

    Attributes:
        dead: task id -> number of its messages in the dead-letter queue.
        unrouted: ids found in the queue of messages that no queue took.
        results: id -> state read from the result store, None for no result; only ids that should have one.
        effects: id -> how often its effect is in the database; only ids that should have one.
        stored: id -> times when a worker was told that the result is stored.
        alert_limits: fault -> seconds within which its alert must fire; empty when nobody watched.
        alerts: when which alert fired.
        audit: what the running audit counts, as :func:`drill.run.counter.count` returns it; None when nobody asked.
        drained: whether all queues ran empty and all nodes were back; None while unknown.
        unchecked: what could not be read or is incomplete, in words.
    """

    run: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    stored: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    dead: Counter[str] = field(default_factory=Counter)
    unrouted: Counter[str] = field(default_factory=Counter)
    results: dict[str, str | None] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    alert_limits: dict[str, float] = field(default_factory=dict)
    alerts: list[Span] = field(default_factory=list)
    audit: dict[str, Any] | None = None
    drained: bool | None = None
    unchecked: list[str] = field(default_factory=list)


def build(books: Iterable[Book], run: str) -> History:
    """Build the history of a run from its books; what is missing or damaged is in ``unchecked``."""
    builder = _Builder(run)
    present = {book.name: book for book in books}
    for book in present.values():
        builder.read(book)
    history = builder.history
    history.faults = list(builder.faults.values())
    history.unchecked += [f"{name}: this file is missing" for name in sorted(builder.expected - present.keys())]
    for book in present.values():
        if book.closed and not book.damage:
            open_ids = {r["id"] for r in book.records if r["k"] == "attempt"} - history.outcomes.keys()
            if open_ids:  # only a killed writer may leave an attempt without its outcome
                history.unchecked.append(f"{book.name}: {len(open_ids)} attempts have no outcome")
    return history


class _Builder:
    """Takes records one by one; a method per kind of record, the rest are notes for people."""

    def __init__(self, run: str) -> None:
        self.history = History(run)
        self.faults: dict[str, Fault] = {}
        self.expected: set[str] = set()
        self.open_runs: dict[tuple[str, int], float] = {}
        self.book = ""

    def read(self, book: Book) -> None:
        self.book, self.open_runs = book.name, {}
        self.history.unchecked += book.damage
        for record in book.records:
            take = getattr(self, f"take_{record['k']}", None)
            if take is not None:
                take(record)
        for (task_id, retries), start in self.open_runs.items():
            self.history.runs[task_id].append(Run(retries, self.book, start, None))

    def take_attempt(self, record: dict[str, Any]) -> None:
        attempt = Attempt(record["task"], record["path"], record.get("poison", False), record["t"])
        self.history.attempts.setdefault(record["id"], attempt)

    def take_outcome(self, record: dict[str, Any]) -> None:
        outcome = Outcome(record["result"], record["t"], record.get("error", ""))
        earlier = self.history.outcomes.get(record["id"])
        if earlier is None or earlier.result not in ACKNOWLEDGED:  # one acknowledgement of several tries is a promise
            self.history.outcomes[record["id"]] = outcome

    def take_start(self, record: dict[str, Any]) -> None:
        key = record["id"], record["retries"]
        if key in self.open_runs:  # the same child got it again: the first run was cut
            self.history.runs[record["id"]].append(Run(record["retries"], self.book, self.open_runs[key], None))
        self.open_runs[key] = record["t"]

    def take_end(self, record: dict[str, Any]) -> None:
        start = self.open_runs.pop((record["id"], record["retries"]), record["t"])
        self.history.runs[record["id"]].append(Run(record["retries"], self.book, start, record["t"], record["final"]))

    def take_stored(self, record: dict[str, Any]) -> None:
        self.history.stored[record["id"]].append(record["t"])

    def take_dead(self, record: dict[str, Any]) -> None:
        self.history.dead[record["id"]] += 1

    def take_unrouted(self, record: dict[str, Any]) -> None:
        self.history.unrouted[record["id"]] += 1

    def take_result(self, record: dict[str, Any]) -> None:
        self.history.results[record["id"]] = record["state"]

    def take_effect(self, record: dict[str, Any]) -> None:
        self.history.effects[record["id"]] = record["count"]

    def take_fault(self, record: dict[str, Any]) -> None:
        fields = {key: value for key, value in record.items() if key not in {"n", "t", "r", "k"}}
        fields["bounds"] = [Bound(**bound) for bound in fields.get("bounds", [])]
        self.faults[record["key"]] = Fault(**fields)  # the last record of a fault holds all of it

    def take_sample(self, record: dict[str, Any]) -> None:
        self.history.samples.append({"at": record["t"], **record["values"]})

    def take_alerts(self, record: dict[str, Any]) -> None:
        self.history.alert_limits = record["limits"]
        self.history.alerts = [Span(**span) for span in record["spans"]]

    def take_audit(self, record: dict[str, Any]) -> None:
        self.history.audit = {key: record[key] for key in ("share", "unaccounted", "undecided", "problem")}

    def take_writer(self, record: dict[str, Any]) -> None:
        self.expected.add(record["name"])

    def take_drained(self, record: dict[str, Any]) -> None:
        self.history.drained = record["ok"]
        self.take_unchecked(record)

    def take_unchecked(self, record: dict[str, Any]) -> None:
        self.history.unchecked += record["why"]

    def take_meta(self, record: dict[str, Any]) -> None:
        self.history.meta |= record["values"]

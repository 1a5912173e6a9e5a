"""What is compared with what, and the ratio that is aimed at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bench import cluster, compiled, outbox
from bench.sides import Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
        name: how it is asked for.
        above: the numerator.
        below: the denominator.
        goal: the ratio that is aimed at; None for one that is only reported.
        by: what the goal is about: messages per second of processor time ("core"), or per second ("wall").
        count: messages in one measurement.
        lacks: says what keeps it from being measured here, an empty string when nothing does.
    """

    name: str
    above: Side
    below: Side
    goal: float | None
    by: Literal["core", "wall"]
    count: int
    lacks: Callable[[], str] = str


LAYER = {"BENCH_LAYER": "1"}
STOCK = {"BENCH_LAYER": "0"}
RESULTS = {"BENCH_RESULTS": "1"}


def _client(name: str) -> Side:
    return Side(name, name)


def _ended(results: bool) -> tuple[Side, Side, Side, Side, Side]:
    """Return the systems that are compared from publish to result."""
    words, extra = (", results", RESULTS) if results else ("", {})
    return (
        Side(f"Holdfast{words}", "publish_many", "celery", LAYER | extra),
        Side(f"dramatiq{words}", "dramatiq", "dramatiq", extra),
        Side(f"taskiq{words}", "taskiq", "taskiq", extra),
        Side(f"stock, unconfirmed, early{words}", "stock, unconfirmed, one by one", "celery", STOCK | extra),
        Side(f"stock, confirmed, late{words}", "stock, confirmed, one by one", "celery",
             STOCK | {"BENCH_LATE": "1"} | extra),
    )  # fmt: skip


def _worker(name: str, environment: dict[str, str]) -> Side:
    return Side(name, "publish_many", "celery", environment, whole=False)


def _cases() -> Iterable[Comparison]:
    ours, dramatiq, taskiq, stock, confirmed = _ended(results=False)
    yield Comparison("dramatiq", ours, dramatiq, 1.0, "core", 800)
    yield Comparison("taskiq", ours, taskiq, 1.0, "core", 800)
    yield Comparison("stock", ours, stock, 0.9, "core", 800)
    yield Comparison("stock_confirmed", ours, confirmed, None, "core", 800)
    ours, dramatiq, taskiq, stock, _ = _ended(results=True)
    yield Comparison("dramatiq_results", ours, dramatiq, None, "core", 500)
    yield Comparison("taskiq_results", ours, taskiq, None, "core", 500)
    yield Comparison("stock_results", ours, stock, None, "core", 500)
    late, early = _worker("worker, the layer", LAYER), _worker("worker, stock, early, default prefetch", STOCK)
    yield Comparison("late_ack", late, early, 0.9, "core", 800)
    floor = _worker("worker, stock, late, prefetch 1", STOCK | {"BENCH_LATE": "1"})
    yield Comparison("late_ack_floor", floor, early, None, "core", 800)
    silent = _worker("neither metrics nor events", LAYER | {"BENCH_MONITORING": "0", "BENCH_EVENTS": "0"})
    port = {"HOLDFAST_METRICS_PORT": "9549"}
    metrics = _worker("worker, metrics", LAYER | {"BENCH_EVENTS": "0"} | port)
    yield Comparison("metrics", metrics, silent, 0.97, "core", 800)
    yield Comparison("monitoring", _worker("worker, metrics and events", LAYER | port), silent, 0.97, "core", 800)
    bulk, single = _client("publish_many"), _client("stock, confirmed, one by one")
    yield Comparison("durable_eff", bulk, _client("raw py-amqp"), 0.8, "core", 5000)
    yield Comparison("durable_eff_pika", bulk, _client("raw pika"), 0.8, "core", 5000)
    yield Comparison("compiled", bulk, _client("rabbitmq-c"), 0.5, "core", 5000, compiled.make)
    yield Comparison("pipelining_gain", bulk, single, 10, "wall", 500)
    tenth = {"HOLDFAST_AUDIT_SHARE": "0.1"}
    audited = Side("publish_many, a tenth audited", "publish_many", environment=tenth, after=cluster.forget_notes)
    yield Comparison("audit", audited, bulk, 0.97, "core", 5000)
    worked = replace(_worker("worker, a tenth audited", LAYER | tenth), after=cluster.forget_notes)
    yield Comparison("audit_work", worked, late, 0.97, "core", 800)
    callers = _client("layer, 64 callers")
    yield Comparison("group_commit", callers, _client("stock, unconfirmed, 64 callers"), 0.9, "wall", 1600)
    yield Comparison("group_commit_gain", callers, _client("stock, confirmed, 64 callers"), None, "wall", 1600)
    yield Comparison("single_caller", _client("layer, one by one"), single, 1.0, "wall", 500)
    ledger = _client("layer, 64 callers, with the drill's ledger")
    yield Comparison("drill_ledger", ledger, callers, 0.95, "wall", 1600)
    stored, alone = _client("result on all disks"), _client("redis-py, the same wait")
    yield Comparison("durable_results", stored, _client("result, stock"), 0.8, "wall", 500)
    yield Comparison("durable_results_floor", stored, alone, None, "wall", 500)
    relayed = replace(_client("outbox, one relay"), after=outbox.drop)
    yield Comparison("outbox", relayed, bulk, None, "wall", 3000)
    enqueued = replace(_client("enqueue, a transaction for each"), after=outbox.drop)
    yield Comparison("outbox_enqueue", enqueued, _client("layer, one by one"), None, "wall", 500)


CASES = {case.name: case for case in _cases()}

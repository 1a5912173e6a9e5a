"""The report of a run: one page that needs no network, and the same as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from drill.judge import alerts
from drill.report import page

if TYPE_CHECKING:
    from pathlib import Path

    from drill.judge.checker import Verdict
    from drill.judge.history import History


def write(history: History, verdict: Verdict, folder: Path) -> None:
    """Write ``report.html`` and ``report.json`` into a run's folder."""
    content = summary(history, verdict)
    (folder / "report.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    (folder / "report.html").write_text(page.render(content, history))


def summary(history: History, verdict: Verdict) -> dict[str, Any]:
    """Return the report as values of JSON."""
    outcomes = alerts.judge(history.faults, history.alerts, history.alert_limits)
    return {
        "run": history.run,
        "verdict": verdict.word,
        "reasons": verdict.reasons,
        "slow": verdict.slow,
        "counts": verdict.counts.sizes(),
        "ids": {
            name: sorted(getattr(verdict.counts, name))[:100]
            for name in ("lost", "unexpected", "result_lost", "effect_duplicated", "innocent_dead", "false_ack")
        },
        "loss_bound": {"per_task": verdict.task_bound, "per_fault": verdict.fault_bound},
        "faults": [
            asdict(result.fault)
            | {
                "alert": _alert(outcomes.get(result.fault.key)),
                "tasks": result.tasks,
                "bad": result.bad,
                "extra": result.extra,
                "exposed": result.exposed,
                "timings": [
                    asdict(t.bound) | {"gap": t.gap.seconds, "ended": t.gap.ended, "ratio": t.ratio}
                    for t in result.timings
                ],
            }
            for result in verdict.faults
        ],
        "audit": history.audit and history.audit | {"unaccounted": len(history.audit["unaccounted"])},
        "alerts": [asdict(span) for span in history.alerts],
        **history.meta,
    }


def _alert(outcome: alerts.AlertResult | None) -> dict[str, Any] | None:
    return asdict(outcome) | {"good": outcome.good} if outcome else None

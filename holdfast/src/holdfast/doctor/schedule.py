"""Rules on celery beat; they apply to applications that have a schedule."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.doctor.rules import Severity, rule

if TYPE_CHECKING:
    from holdfast.doctor.subject import Subject


def _scheduler(subject: Subject) -> str:
    return str(subject.get("beat_scheduler")) if subject.get("beat_schedule") else ""


def _shared(subject: Subject) -> bool:
    return "redbeat" in _scheduler(subject).lower() or "holdfast.beat" in _scheduler(subject)


@rule(
    "HF401-one-beat",
    Severity.WARNING,
    loss="one beat is all there can be: no tick while its host is down, and two of them send every tick twice",
    fix='beat_scheduler = "holdfast.beat:Scheduler" and two beats; it serves every schedule class, and HF405 '
    "names the entries that it refuses",
    see="celery#1495",
)
def one_beat(subject: Subject) -> str | None:
    return f"the scheduler is {_scheduler(subject)}" if _scheduler(subject) and not _shared(subject) else None


@rule(
    "HF402-lock-timeout",
    Severity.WARNING,
    loss="when the beat that holds the lock dies, no tick is sent until the lock runs out",
    fix="redbeat_lock_timeout = 30, beat_max_loop_interval = 5",
    see="redbeat#271",
)
def lock_timeout(subject: Subject) -> str | None:
    value = subject.get("redbeat_lock_timeout") or 5 * (subject.get("beat_max_loop_interval") or 300)
    return f"the lock lives for {value:g} s" if _shared(subject) and value > 120 else None


@rule(
    "HF403-lock-too-short",
    Severity.WARNING,
    loss="the lock runs out while its holder sleeps: both beats send ticks",
    fix="beat_max_loop_interval below a third of redbeat_lock_timeout",
)
def lock_too_short(subject: Subject) -> str | None:
    lock, loop = subject.get("redbeat_lock_timeout"), subject.get("beat_max_loop_interval") or 300
    return f"lock {lock:g} s, loop {loop:g} s" if _shared(subject) and lock and lock < 3 * loop else None


@rule(
    "HF404-forgotten-ticks",
    Severity.WARNING,
    loss="a tick that could not be published is logged and forgotten",
    fix='beat_scheduler = "holdfast.beat:Scheduler"',
)
def forgotten_ticks(subject: Subject) -> str | None:
    scheduler = _scheduler(subject)
    return f"the scheduler is {scheduler}" if scheduler and "holdfast.beat" not in scheduler else None


@rule(
    "HF405-refused-entries",
    Severity.WARNING,
    loss="the beat of Holdfast leaves these entries out: their task never runs",
    fix="an interval of 0.1 s or longer; whole seconds with relative=True",
)
def refused_entries(subject: Subject) -> str | None:
    found = [name for name, entry in (subject.get("beat_schedule") or {}).items() if _is_refused(entry.get("schedule"))]
    return f"{', '.join(sorted(found))}: an interval that cannot be kept" if found else None


def _is_refused(when: object) -> bool:
    every = getattr(when, "run_every", when)
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    if not isinstance(seconds, (int, float)):
        return False
    return seconds < 0.1 or (getattr(when, "relative", False) and seconds % 1 > 0)

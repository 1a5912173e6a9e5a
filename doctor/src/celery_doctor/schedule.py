"""Rules on celery beat; they apply to applications that have a schedule."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery.schedules import solar

from celery_doctor.consume import names
from celery_doctor.rules import Severity
from celery_doctor.rules import settings_rules as rule

if TYPE_CHECKING:
    from celery_doctor.subject import Subject

STOCK = "celery.beat:PersistentScheduler"


def scheduler(subject: Subject) -> str:
    """Return the scheduler of an application, an empty text when it has no schedule.

    A scheduler of its own choice counts as a schedule: its entries may live in a database.
    """
    chosen = str(subject.get("beat_scheduler") or STOCK)
    return chosen if subject.get("beat_schedule") or chosen.replace(".PersistentS", ":PersistentS") != STOCK else ""


def shared(name: str) -> bool:
    """Say whether two beats of a scheduler keep out of each other's way by a lock."""
    return "redbeat" in name.lower() or "holdfast.beat" in name


@rule(
    "HF401-one-beat",
    Severity.WARNING,
    loss="only one beat may run: no tick is sent while its host is down, and two beats send every tick twice",
    fix='beat_scheduler = "holdfast.beat:Scheduler" and two beats; HF405 names the entries that it refuses. It serves'
    " beat_schedule, the rows of django-celery-beat and what redbeat has in Redis; write other entries into"
    " beat_schedule first",
    see="celery#1495",
)
def one_beat(subject: Subject) -> str | None:
    name = scheduler(subject)
    return f"the scheduler is {name}" if name and not shared(name) else None


@rule(
    "HF402-lock-timeout",
    Severity.WARNING,
    loss="when the beat that holds the lock dies, no tick is sent until the lock expires",
    sets={"redbeat_lock_timeout": "30", "beat_max_loop_interval": "5"},
    see="redbeat#271",
)
def lock_timeout(subject: Subject) -> str | None:
    value = subject.number("redbeat_lock_timeout") or 5 * (subject.number("beat_max_loop_interval") or 300)
    return f"the lock lives for {value:g} s" if shared(scheduler(subject)) and value > 120 else None


@rule(
    "HF403-lock-too-short",
    Severity.WARNING,
    loss="the lock expires while its holder sleeps: both beats send ticks",
    fix="beat_max_loop_interval below a third of redbeat_lock_timeout",
)
def lock_too_short(subject: Subject) -> str | None:
    lock, loop = subject.number("redbeat_lock_timeout"), subject.number("beat_max_loop_interval") or 300
    return f"lock {lock:g} s, loop {loop:g} s" if shared(scheduler(subject)) and lock and lock < 3 * loop else None


@rule(
    "HF404-forgotten-ticks",
    Severity.WARNING,
    loss="a tick that could not be published is logged and forgotten",
    fix='beat_scheduler = "holdfast.beat:Scheduler" (see HF401 on entries kept elsewhere)',
)
def forgotten_ticks(subject: Subject) -> str | None:
    name = scheduler(subject)
    return f"the scheduler is {name}" if name and "holdfast.beat" not in name else None


@rule(
    "HF405-refused-entries",
    Severity.WARNING,
    loss="the beat of Holdfast skips these entries: their tasks never run",
    fix="an interval of 0.1 s or longer; whole seconds with relative=True",
)
def refused_entries(subject: Subject) -> str | None:
    entries = subject.mapping("beat_schedule")
    found = [name for name, entry in entries.items() if _is_refused(_part(entry, "schedule"))]
    return f"{names(found)}: an interval that cannot be kept" if found else None


def _is_refused(when: object) -> bool:
    every = getattr(when, "run_every", when)
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    if not isinstance(seconds, (int, float)):
        return False
    return seconds < 0.1 or (getattr(when, "relative", False) and seconds % 1 > 0)


def _part(entry: Any, name: str) -> Any:
    """Return a part of an entry, which is a dictionary or an object of Celery's."""
    return entry.get(name) if isinstance(entry, dict) else getattr(entry, name, None)


@rule(
    "HF406-rows-left-behind",
    Severity.WARNING,
    loss="the entries in django-celery-beat's tables are in no schedule: their tasks are never sent",
    fix='beat_scheduler = "holdfast.beat:Scheduler", which serves them under two beats, or'
    ' "django_celery_beat.schedulers:DatabaseScheduler", or remove "django_celery_beat" from INSTALLED_APPS when the'
    " tables are empty",
)
def rows_left_behind(subject: Subject) -> str | None:
    name = str(subject.get("beat_scheduler") or STOCK)
    if "django_celery_beat.models" in sys.modules and not name.startswith(("django_celery_beat", "holdfast.beat")):
        return f"django_celery_beat is installed, the settings name {name} (--scheduler of a command line is not seen)"
    return None


@rule(
    "HF408-database-scheduler",
    Severity.ADVICE,
    loss="last_run_at is written every 3 minutes: after a crash of beat the ticks since then are sent again. An entry"
    " whose arguments are no JSON is disabled, and only a line in the log says so",
    fix='beat_scheduler = "holdfast.beat:Scheduler", which serves the same rows; or tasks that may run twice, and an'
    " alert on rows of PeriodicTask that were enabled and are not any more",
)
def database_scheduler(subject: Subject) -> str | None:
    name = str(subject.get("beat_scheduler") or "")
    return f"the scheduler is {name}" if name.startswith("django_celery_beat") else None


@rule(
    "HF407-entry-not-storable",
    Severity.WARNING,
    loss="beat exits at its start: redbeat stores entries as JSON and cannot store this schedule or argument",
    fix="a crontab or interval, and arguments of JSON's own types: str(uuid), str(decimal)",
)
def entry_not_storable(subject: Subject) -> str | None:
    if "redbeat" not in scheduler(subject).lower():  # Holdfast's own beat keeps such an entry
        return None
    bad = [name for name, entry in subject.mapping("beat_schedule").items() if not _storable(entry)]
    return f"beat_schedule: {names(bad)}" if bad else None


def _storable(entry: Any) -> bool:
    if isinstance(_part(entry, "schedule"), solar):
        return False
    try:
        json.dumps([_part(entry, "args"), _part(entry, "kwargs")])
    except (TypeError, ValueError):
        return False
    return True

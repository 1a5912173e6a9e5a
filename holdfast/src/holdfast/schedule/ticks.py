"""When the ticks of a schedule are due: arithmetic on instants in UTC, exact to the microsecond. No clock is read here.

A tick is identified by its instant. From the same last tick every beat computes the same next one, so a tick that is
sent again, by either, carries the same task id.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from celery.schedules import crontab, schedule, solar
from celery.utils.time import remaining

UTC = ZoneInfo("UTC")
SHORTEST = timedelta(seconds=0.1)  # a tick costs about 10 ms of beat's only thread
NOT_A_SCHEDULE = "{!r} is not a schedule: allowed are seconds, timedelta, and Celery's schedule classes"
FIRST_SPAN = timedelta(minutes=1)


def check(when: Any) -> None:
    """Refuse a schedule that no beat can keep.

    Args:
        when: what an entry has as its schedule.

    Raises:
        ValueError: it is not a schedule, or one whose ticks cannot be told apart.
    """
    if not (hasattr(when, "remaining_estimate") and hasattr(when, "is_due") and hasattr(when, "tz")):
        raise ValueError(NOT_A_SCHEDULE.format(when))
    if not isinstance(when, schedule):
        return
    step = every(when)
    if step is None or step < SHORTEST:
        raise ValueError(f"an interval of {step} is too short: {SHORTEST.total_seconds():g} s is the shortest")
    if when.relative and step.microseconds:
        raise ValueError(f"relative=True rounds to whole seconds, {step.total_seconds():g} s is not a whole number")


def after(when: Any, last: datetime) -> datetime | None:
    """Return the first instant after another one at which a schedule has a tick.

    Args:
        when: the schedule; Celery's, redbeat's or one with the same methods.
        last: the earlier instant.

    Returns:
        The instant in UTC; None when there is none.

    Raises:
        ValueError: the schedule names a time that is not later.
    """
    last = last.astimezone(UTC)
    due = _asked(when, last)
    if _is_of_every_hour(when):
        due = _of_every_hour(when, last, due)
    if due is not None and due <= last:  # a rule on local times steps back in the hour that comes twice
        due = _asked(when, last + timedelta(hours=1))
    if due is None:
        return None
    if isinstance(when, solar):  # computed iteratively: the same event, seen from its own instant, is a moment later
        due = due.replace(microsecond=0) + timedelta(seconds=1)
    if due <= last:
        raise ValueError(f"{when!r} names {due} as the tick after {last}")
    return due


def to_send(when: Any, last: datetime, now: datetime, since: datetime, *, latest: bool = True) -> datetime | None:
    """Return the tick that is to be sent next.

    Missed ticks follow one by one, as far back as ``since``. Of older ones the latest counts, and only when nothing
    newer was missed: a nightly task is made up for after a long outage, once.

    Args:
        when: the schedule.
        last: the tick before.
        now: the time of day.
        since: how far back all missed ticks are sent.
        latest: whether the latest of the older ones counts.

    Returns:
        The instant of the tick, not due yet when it is later than ``now``; None when there is no further one.
    """
    due = after(when, last)
    if due is None or due > min(since, now):
        return due
    recent = after(when, on_grid(when, last, since))
    if recent is None or recent <= now or not latest:
        return recent
    return _latest(when, last, now)


def _asked(when: Any, last: datetime) -> datetime | None:
    """Return what a schedule says itself."""
    # Celery's solar takes the fields of a local time for those of UTC
    start = last if isinstance(when, solar) else last.astimezone(when.tz)
    left = _at(when, start, lambda: when.remaining_estimate(start))
    return None if left is None else last + left


def _at(when: Any, moment: datetime, ask: Any) -> Any:
    """Ask a schedule while its clock stands still; what it names as the time left counts from there."""
    clock = vars(when).get("now")
    vars(when)["now"] = lambda: moment
    try:
        return ask()
    finally:
        del vars(when)["now"]
        if clock is not None:
            vars(when)["now"] = clock


def every(when: Any) -> timedelta | None:
    """Return the interval of a schedule that has one."""
    step: timedelta | None = vars(when).get("run_every") if isinstance(when, schedule) else None
    return step


def _is_of_every_hour(when: Any) -> bool:
    """Return whether a schedule is a crontab that ticks in every hour and counts as Celery does."""
    if not isinstance(when, crontab) or type(when).remaining_estimate is not crontab.remaining_estimate:
        return False
    return vars(when)["hour"] == set(range(24))


def _of_every_hour(when: Any, last: datetime, asked: datetime | None) -> datetime | None:
    """Return the next tick of a crontab of every hour; Celery leaves out an hour that comes twice (celery#10107).

    Between two changes of the clock local time runs evenly, so the fields are compared at a fixed offset.
    """
    due = _at_offset(when, last, _offset(when, last))
    if _offset(when, due) == _offset(when, last):
        return due
    if _offset(when, due) > _offset(when, last):  # an hour is left out, and Celery has the answer
        return asked
    moment = last
    while moment < due and _offset(when, moment) != _offset(when, due):
        moment = _at_offset(when, moment, _offset(when, due))
    return moment


def _offset(when: Any, moment: datetime) -> timedelta:
    return moment.astimezone(when.tz).utcoffset() or timedelta(0)


def _at_offset(when: Any, last: datetime, offset: timedelta) -> datetime:
    zone = timezone(offset)
    start = last.astimezone(zone)
    left: timedelta = _at(when, start, lambda: remaining(*when.remaining_delta(start, tz=zone)))
    return last + left


def on_grid(when: Any, last: datetime, limit: datetime) -> datetime:
    """Return the last instant up to a limit from which the ticks of a schedule can be counted."""
    step = every(when)
    if step is None or when.relative:
        return max(last, limit)
    return last + max(0, (limit - last) // step) * step


def _latest(when: Any, last: datetime, now: datetime) -> datetime:
    """Return the last tick up to now, which is known to exist."""
    if every(when) and not when.relative:
        return on_grid(when, last, now)
    span, found = FIRST_SPAN, None
    while found is None or found > now:
        start = max(last, now - span)
        found = after(when, start)
        span *= 2
    while (later := after(when, found)) and later <= now:
        found = later
    return found

"""How long until a task expires: read in one way by publishers and workers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from celery.utils.time import maybe_iso8601


def remaining(expires: object) -> timedelta | None:
    """Return how long until a task expires, negative when its time is over.

    Args:
        expires: of the headers of its message, as text.

    Returns:
        None when the task does not expire, or when the text is no time with a zone; Celery then decides.
    """
    try:
        due = maybe_iso8601(expires)  # what Celery's worker reads it with
        return due - datetime.now(timezone.utc) if due else None
    except (AttributeError, OverflowError, TypeError, ValueError):
        return None

"""What the ``WEBHOOKS_*`` variables change; everything has a value that works for trying the application alone."""

from __future__ import annotations

import os
from dataclasses import dataclass

from celery.exceptions import ImproperlyConfigured


@dataclass(frozen=True)
class Config:
    """Settings of the application.

    Attributes:
        database_url: SQLAlchemy URL; an SQLite file in the working directory unless ``WEBHOOKS_DATABASE_URL`` is set.
        max_attempts: HTTP requests per delivery before it is dead.
        retry_base: seconds; upper bound of the first wait, doubled with each attempt.
        retry_cap: seconds; no wait is longer.
        timeout: seconds; limit of one HTTP request.
        overdue_after: seconds past its due time after which the sweep publishes a delivery again.
    """

    database_url: str
    max_attempts: int
    retry_base: int
    retry_cap: int
    timeout: int
    overdue_after: int


def load() -> Config:
    """Read the environment.

    Raises:
        ImproperlyConfigured: a number is not a whole number above zero.
    """
    return Config(
        database_url=os.environ.get("WEBHOOKS_DATABASE_URL") or "sqlite:///webhooks.sqlite3",
        max_attempts=_number("WEBHOOKS_MAX_ATTEMPTS", 6),
        retry_base=_number("WEBHOOKS_RETRY_BASE", 2),
        retry_cap=_number("WEBHOOKS_RETRY_CAP", 300),
        timeout=_number("WEBHOOKS_TIMEOUT", 10),
        overdue_after=_number("WEBHOOKS_OVERDUE_AFTER", 60),
    )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed is a whole number above zero.")
    return int(text)

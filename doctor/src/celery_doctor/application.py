"""Judges the settings of an application; importing this registers every rule on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_doctor import (  # noqa: F401 - they register their rules
    consume,
    publish,
    queues,
    redis_broker,
    results,
    schedule,
    versions,
)
from celery_doctor.rules import Finding, Rule, settings_rules
from celery_doctor.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery


def all_rules() -> list[Rule]:
    """Return every rule on the settings of an application, by id."""
    return list(settings_rules)


def examine(app: Celery[Any], only: Callable[[Rule], bool] = lambda _: True) -> Iterator[Finding]:
    """Look at the settings of an application; no server is asked.

    Args:
        app: any Celery application, its task modules imported.
        only: chooses rules; by default all are asked.
    """
    return settings_rules.examine(Subject(app), only)

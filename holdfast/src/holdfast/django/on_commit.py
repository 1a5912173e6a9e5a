"""``HOLDFAST_DURABLE_ON_COMMIT = True``: ``delay_on_commit`` stores its task in the transaction instead of in memory.

Celery keeps what ``delay_on_commit`` gets until the commit and publishes it then: a process that dies between the two
loses the task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.contrib.django.task import DjangoTask
from django.db import DEFAULT_DB_ALIAS

from holdfast.django.outbox import enqueue, transactional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def install() -> None:
    """Give Celery's task class of Django projects, and with it every class made of it, the durable methods."""
    task: Any = DjangoTask
    task.delay_on_commit, task.apply_async_on_commit = delay_on_commit, apply_async_on_commit


def delay_on_commit(self: Any, *args: Any, **kwargs: Any) -> None:
    """Call the task after the commit of the default database's transaction; without one, now.

    Args:
        self: the task.
        args: of the task.
        kwargs: of the task.
    """
    self.apply_async_on_commit(args, kwargs)


def apply_async_on_commit(
    self: Any, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
) -> None:
    """Call the task with options of ``apply_async`` after the commit, as :func:`delay_on_commit`.

    Args:
        self: the task.
        args: of the task.
        kwargs: of the task.
        options: of ``apply_async``.
    """
    if transactional(DEFAULT_DB_ALIAS):
        enqueue(self.signature(args or (), kwargs or {}, options), using=DEFAULT_DB_ALIAS)
    else:
        self.apply_async(args, kwargs, **options)

"""Runs an effect once on a connection of Django's: the key, the effect and its result are one transaction.

    receipt = once(self.request.id, lambda: book(order))

:mod:`holdfast.inbox` describes what that promises and what it cannot.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar, cast

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from holdfast import keys
from holdfast.django.models import Inbox
from holdfast.outbox.rows import now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

T = TypeVar("T")


def once(key: str | tuple[str, ...], effect: Callable[[], T], *, using: str | None = None) -> T:
    """Run ``effect`` unless it has run for ``key``, and return its result.

    All happens in the running transaction, or in one of its own where none is open. A concurrent call with the same
    key waits until the first one is committed or rolled back, then returns the stored result or runs the effect
    itself. When ``effect`` raises, what it did in this database is undone and the key stays free.

    Args:
        key: what the effect belongs to, usually the task's id; a task with several effects adds the name of the step:
            ``(task.request.id, "invoice")``. At most 255 characters.
        effect: called without arguments; returns a JSON value. A repeat gets that value as JSON gives it back (a tuple
            as a list).
        using: the database that ``effect`` writes to; None for the default one. Its isolation level is Django's
            default, ``READ COMMITTED``.

    Returns:
        What this or the first call of ``effect`` returned.

    Raises:
        ValueError: the key is empty, too long or has a NUL.
        TypeError: the key is neither text nor tuple, or the result is no JSON value; the effect is undone.
        Exception: whatever ``effect`` raises.
    """
    using, name = using or DEFAULT_DB_ALIAS, keys.text(key)
    with transaction.atomic(using=using):
        _claim(name, using)
        row = Inbox.objects.using(using).select_for_update().get(pk=name)
        if row.result is None:
            result = effect()
            row.result = json.dumps(result)
            row.save(using=using, update_fields=["result"])
            return result
    return cast("T", json.loads(row.result))


def _claim(name: str, using: str) -> None:
    """Insert a key, unless it is there; wait for another transaction that inserts it now."""
    connection, row = connections[using], Inbox(key=name)
    if connection.vendor != "mysql":
        Inbox.objects.using(using).bulk_create([row], ignore_conflicts=True)
        return
    # not INSERT IGNORE: its shared locks let two that wait for a third, which is rolled back, end in a deadlock
    statement = "INSERT INTO holdfast_inbox (`key`, done_at) VALUES (%s, %s) ON DUPLICATE KEY UPDATE `key` = `key`"
    with connection.cursor() as cursor:
        fields = [Inbox._meta.get_field("key"), Inbox._meta.get_field("done_at")]
        cursor.execute(statement, [f.get_db_prep_save(getattr(row, f.name), connection) for f in fields])


def prune(older_than: timedelta, *, using: str | None = None) -> int:
    """Forget keys, so that the table does not grow for ever.

    Args:
        older_than: keep at least as long as a copy of a task can turn up: the age of the oldest message in a queue, a
            dead-letter queue or the outbox.
        using: the database; None for the default one.

    Returns:
        How many keys were forgotten; a later call with one of them runs its effect again.
    """
    old = Inbox.objects.using(using or DEFAULT_DB_ALIAS).filter(done_at__lt=now() - older_than)
    return int(old.delete()[0])

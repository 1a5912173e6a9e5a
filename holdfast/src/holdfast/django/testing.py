"""What tests look at instead of the broker."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from holdfast.django.outbox import captured
from holdfast.outbox.workflow import record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.canvas import Signature


@contextmanager
def capture_enqueued(*, using: str | None = None) -> Iterator[list[Signature[Any]]]:
    """Collect what is enqueued inside of the block, instead of storing and publishing it.

        with capture_enqueued() as tasks:
            client.post("/orders", {"email": "ada@example.com"})
        assert [(task.task, task.args) for task in tasks] == [("orders.tasks.send_invoice", (1,))]

    What was rolled back, to a savepoint too, is not in the list. It works in ``TestCase``, whose transaction is never
    committed, and in ``TransactionTestCase``. ``tasks[0].apply()`` runs a task.

    Args:
        using: the database; None for the default one.

    Returns:
        The signatures in the order of enqueueing, each with its id in ``options["task_id"]``; complete when the block
        has ended.
    """
    using = using or DEFAULT_DB_ALIAS
    found: list[Signature[Any]] = []

    def take(signature: Signature[Any], database: str) -> str:
        copy = signature.clone()
        task_id = str(copy.freeze().id)
        if not copy.app.conf.task_always_eager:
            record(copy)  # raises what enqueue() would
        if database == using:
            transaction.on_commit(_Taken(found, copy), using=using)
        return task_id

    token = captured.set(take)
    try:
        yield found
    finally:
        captured.reset(token)
        for _, callback, *_ in connections[using].run_on_commit:  # of a transaction that is still open
            if isinstance(callback, _Taken) and callback.found is found:
                callback()


@dataclass(eq=False, slots=True)
class _Taken:
    """Django forgets it when its savepoint is rolled back."""

    found: list[Signature[Any]]
    signature: Signature[Any]

    def __call__(self) -> None:
        if not any(one is self.signature for one in self.found):
            self.found.append(self.signature)

"""The ways of a delivery to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import chord

from holdfast import outbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

    from webhooks.models import Delivery


def accepted(session: Session, rows: Iterable[Delivery], batch_id: str | None = None, delay: int = 0) -> None:
    """Put the tasks of new rows into the outbox, in the transaction that makes the rows; a relay publishes them.

    Each task has its row's id, so that copies are recognised.

    Args:
        session: in the transaction.
        rows: the deliveries, with their ids.
        batch_id: makes the tasks one chord that ends in the batch's report.
        delay: seconds until the first attempt; the broker keeps the message that long.
    """
    from webhooks.tasks import deliver, report  # noqa: PLC0415 - the tasks publish too

    tasks = [deliver.s(row.id).set(task_id=row.id, queue=row.queue, countdown=delay) for row in rows]
    if batch_id is None:
        for task in tasks:
            outbox.enqueue(session, task)
    else:
        # A dead delivery fails the chord: then the report is its error callback, when all others have ended.
        outbox.enqueue(session, chord(tasks, report.si(batch_id).on_error(report.si(batch_id))))


def again(rows: Iterable[Delivery]) -> None:
    """Publish the tasks of overdue rows once more, straight to the broker: the relay may be what is missing.

    Raises:
        kombu.exceptions.OperationalError: the broker did not confirm one; a later sweep finds what is left.
        amqp.exceptions.AMQPError: the broker refused one; likewise.
    """
    from webhooks.tasks import deliver  # noqa: PLC0415 - the tasks publish too

    for row in rows:
        deliver.apply_async((row.id,), task_id=row.id, queue=row.queue)

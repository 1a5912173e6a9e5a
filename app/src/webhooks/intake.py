"""Takes what the user asks for: rows and their tasks are stored in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery import chord

from holdfast import outbox
from webhooks import db
from webhooks.models import Batch, Delivery, new_id, now
from webhooks.tasks import deliver, report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        url: address of the receiver, as :func:`webhooks.sender.check_url` takes it.
        payload: any JSON value.
        queue: name of the queue.
    """

    url: str
    payload: Any
    queue: str


def accept(requests: Iterable[Request], *, delay: int = 0, batch: bool = False) -> list[Delivery]:
    """Store the requests with their tasks; from the return on they are kept until delivered or dead.

    Args:
        requests: what to deliver.
        delay: seconds until the first attempt; the broker keeps the message that long.
        batch: make them one batch with a report.
    """
    with db.transaction() as session:
        batch_id = None
        if batch:
            batch_id = new_id()
            session.add(Batch(id=batch_id))
            session.flush()
        rows = [
            Delivery(
                batch_id=batch_id,
                url=request.url,
                payload=request.payload,
                queue=request.queue,
                next_attempt_at=now() + timedelta(seconds=delay),
            )
            for request in requests
        ]
        session.add_all(rows)
        session.flush()  # gives the rows their ids
        _enqueue(session, rows, batch_id, delay)
    return rows


def _enqueue(session: Session, rows: Iterable[Delivery], batch_id: str | None, delay: int) -> None:
    """Put the tasks into the outbox; a relay publishes them. Each has its row's id, so that copies are recognised."""
    tasks = [deliver.s(row.id).set(task_id=row.id, queue=row.queue, countdown=delay) for row in rows]
    if batch_id is None:
        for task in tasks:
            outbox.enqueue(session, task)
    else:
        # A dead delivery fails the chord: then the report is its error callback, when all others have ended.
        outbox.enqueue(session, chord(tasks, report.si(batch_id).on_error(report.si(batch_id))))

"""The tasks; each may run twice, also at the same time, and changes things once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import OperationalError

from holdfast.dead import REPLAY_HEADER
from webhooks import delivery
from webhooks.app import app
from webhooks.models import DELIVERED

if TYPE_CHECKING:
    from celery import Task

SWEEP_LIMIT = 500  # rows per tick, so that a tick stays short


@app.task(bind=True, max_retries=None, throws=(delivery.PermanentError,), soft_time_limit=60, time_limit=90)
def deliver(self: Task[Any, Any], delivery_id: str) -> dict[str, Any]:
    """Make one attempt to deliver; retry it later, or end in the dead-letter queue.

    Attempts are counted in the row, not by Celery: a replayed or repeated message continues where the row stands.

    Args:
        delivery_id: id of the row.

    Returns:
        The delivery's id and the HTTP status; the same for every copy of the task.

    Raises:
        celery.exceptions.Retry: the next attempt is published.
        webhooks.delivery.PermanentError: the delivery is dead, and its message goes to the dead-letter queue.
    """
    try:
        row = delivery.begin(delivery_id, int((self.request.headers or {}).get(REPLAY_HEADER, 0)))
        if row.status == DELIVERED:
            return delivery.outcome(delivery_id)
        try:
            status = delivery.post(row)
        except (delivery.TemporaryError, delivery.PermanentError, SoftTimeLimitExceeded) as error:
            wait = delivery.fail(row, error)
            if wait is None:
                raise delivery.PermanentError(f"delivery {row.id}: {error} (attempt {row.attempts + 1})") from error
            raise self.retry(countdown=wait, exc=error) from error
        return delivery.succeed(delivery_id, self.request.id or "", status)
    except OperationalError as error:  # the database is away: that is no failed attempt
        raise self.retry(countdown=10, exc=error) from error


@app.task(bind=True, max_retries=None)
def report(self: Task[Any, Any], batch_id: str) -> dict[str, int]:
    """Write the report of a batch.

    Args:
        batch_id: id of the batch.

    Returns:
        The counts of the report.
    """
    try:
        written = delivery.write_report(batch_id)
    except OperationalError as error:
        raise self.retry(countdown=10, exc=error) from error
    if written is None:
        raise delivery.PermanentError(f"no batch {batch_id} in the database that this worker uses")
    return {"total": written.total, "delivered": written.delivered, "dead": written.dead, "pending": written.pending}


@app.task(acks_on_failure=True)  # the next tick does the same work: a failed one needs no replay
def sweep() -> dict[str, int]:
    """Publish what is overdue, and write the reports whose chord was lost or outdated by a replay.

    It goes straight to the broker: the relay may be what is missing.

    Returns:
        How many deliveries and reports were published.

    Raises:
        kombu.exceptions.OperationalError: the broker did not confirm one; a later sweep finds what is left.
        amqp.exceptions.AMQPError: the broker refused one; likewise.
    """
    rows = delivery.take_overdue(SWEEP_LIMIT)
    for row in rows:
        deliver.apply_async((row.id,), task_id=row.id, queue=row.queue)
    batches = delivery.batches_without_report(SWEEP_LIMIT)
    for batch_id in batches:
        report.delay(batch_id)
    return {"deliveries": len(rows), "reports": len(batches)}

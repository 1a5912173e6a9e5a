"""The one way from a committed row to the broker.

A row is committed first and published after that. When the process dies in between, or the broker takes nothing, the
row stays pending and the sweep publishes it again: a delivery is never lost, at worst late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webhooks.models import Delivery


def deliveries(rows: Iterable[Delivery], delay: int = 0) -> None:
    """Publish a task for each row, under the row's id, so that copies are recognised.

    Args:
        rows: what to publish.
        delay: seconds until the first attempt; the broker keeps the message that long.

    Raises:
        kombu.exceptions.OperationalError: the broker did not confirm one; the sweep will publish what is left.
        amqp.exceptions.AMQPError: the broker refused one; likewise.
    """
    from webhooks.tasks import deliver  # noqa: PLC0415 - the tasks publish too

    for row in rows:
        deliver.apply_async((row.id,), task_id=row.id, queue=row.queue, countdown=delay)


def batch(batch_id: str) -> None:
    """Publish the one task that fans the batch out; that is atomic, a chord published from here would not be.

    Raises:
        kombu.exceptions.OperationalError: the broker did not confirm it; the sweep will publish the deliveries.
        amqp.exceptions.AMQPError: the broker refused it; likewise.
    """
    from webhooks.tasks import fan_out  # noqa: PLC0415 - the tasks publish too

    fan_out.delay(batch_id)

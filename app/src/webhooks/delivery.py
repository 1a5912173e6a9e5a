"""The life of an accepted delivery: attempted, then delivered or dead. Every step may run twice and changes once."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

import httpcore
from sqlalchemy import and_, case, func, or_, select, update

from holdfast import inbox
from webhooks import config, db, sender, signature
from webhooks.models import DEAD, DELIVERED, PENDING, Batch, Delivery, Effect, Report, now

RETRY_STATUS = frozenset({408, 425, 429})  # "later", though they are 4xx


class TemporaryError(Exception):
    """The receiver may take it later: 5xx, a timeout, no connection."""


class PermanentError(Exception):
    """The delivery is dead: the receiver refuses it, or the last attempt failed."""


def retry_wait(attempt: int, base: int, cap: int) -> int:
    """Return the whole seconds to wait after the failed ``attempt`` (1 is the first).

    The wait is random between the half and the whole of ``base * 2 ** (attempt - 1)``, at most ``cap``, at least 1: the
    broker counts delays in whole seconds, and receivers that come back must not meet all deliveries at once.
    """
    longest = min(cap, base * 2 ** min(attempt - 1, 32))
    return max(1, round(random.uniform(longest / 2, longest)))  # noqa: S311 - spreads load, guards nothing


def begin(delivery_id: str, replay: int) -> Delivery:
    """Return the row to attempt, which may be delivered already.

    Args:
        delivery_id: id of the row.
        replay: how often an operator has replayed the message; a new replay gives a dead delivery all attempts anew,
            while a late copy of a message does not.

    Raises:
        PermanentError: there is no such row, or it is dead.
    """
    with db.transaction() as session:
        row = session.get(Delivery, delivery_id, with_for_update=True)
        if row is None:
            raise PermanentError(f"no delivery {delivery_id} in the database that this worker uses")
        if row.status == DEAD:
            if replay <= row.replays:
                raise PermanentError(f"delivery {row.id}: {row.last_error} (dead since {row.finished_at})")
            row.status, row.attempts, row.replays, row.finished_at = PENDING, 0, replay, None
        return row


def post(row: Delivery) -> int:
    """Send the payload and return the 2xx status.

    Raises:
        TemporaryError: worth another attempt.
        PermanentError: the receiver refuses it.
    """
    settings = config.load()
    body = json.dumps(row.payload, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {"Idempotency-Key": row.id} | signature.sign(settings.signing_keys, row.id, body)
    try:
        url = sender.check_url(row.url, plain=bool(settings.allowed_networks))
        status = sender.send(url, headers, body, seconds=settings.timeout, allowed=settings.allowed_networks)
    except (httpcore.TimeoutException, httpcore.NetworkError) as error:
        raise TemporaryError(f"{type(error).__name__}: {error}") from error
    except httpcore.RemoteProtocolError as error:  # its text may quote the receiver, and the receiver the address
        raise TemporaryError(type(error).__name__) from None
    except sender.RefusedError as error:
        raise PermanentError(str(error)) from error
    if status in RETRY_STATUS or status >= 500:
        raise TemporaryError(f"HTTP {status}")
    if not 200 <= status < 300:
        raise PermanentError(f"HTTP {status}")
    return status


def succeed(delivery_id: str, task_id: str, status: int) -> dict[str, Any]:
    """Mark the delivery as delivered and write its effect, in one transaction with the inbox's mark.

    Returns:
        The outcome: id and HTTP status. After a copy of the task has written one, it is that one and nothing changes.
    """

    def effect() -> dict[str, Any]:
        end = {"status": DELIVERED, "attempts": Delivery.attempts + 1, "last_error": None, "finished_at": now()}
        session.execute(update(Delivery).where(Delivery.id == delivery_id).values(end))
        session.add(Effect(delivery_id=delivery_id, task_id=task_id, response_code=status))
        session.flush()
        return {"delivery": delivery_id, "status": status}

    with db.transaction() as session:
        return inbox.once(session, delivery_id, effect)


def outcome(delivery_id: str) -> dict[str, Any]:
    """Return what the task of a delivered row returned."""
    with db.transaction() as session:
        effect = session.get_one(Effect, delivery_id)
        return {"delivery": delivery_id, "status": effect.response_code}


def fail(row: Delivery, error: Exception) -> int | None:
    """Record a failed attempt of ``row``.

    Returns:
        Seconds to wait before the next attempt, None when this was the last one.
    """
    limits = config.load()
    attempt = row.attempts + 1
    if isinstance(error, PermanentError) or attempt >= limits.max_attempts:
        changes: dict[str, Any] = {"status": DEAD, "finished_at": now()}
        wait = None
    else:
        wait = retry_wait(attempt, limits.retry_base, limits.retry_cap)
        changes = {"next_attempt_at": now() + timedelta(seconds=wait)}
    changes |= {"attempts": attempt, "last_error": str(error)}
    with db.transaction() as session:  # delivered is final: a copy of the task may have been luckier
        session.execute(update(Delivery).where(Delivery.id == row.id, Delivery.status != DELIVERED).values(changes))
    return wait


def take_overdue(limit: int) -> list[Delivery]:
    """Return up to ``limit`` pending deliveries whose time has passed unnoticed, and give them a new due time.

    Their message was never published, or waits in a long queue: publishing it again is safe, doing so at each tick is
    not, so the next time comes when the delivery has doubled its age, at the latest in an hour.
    """
    late = timedelta(seconds=config.load().overdue_after)
    longest = timedelta(hours=1)
    with db.transaction() as session:
        rows = session.scalars(
            select(Delivery)
            .where(Delivery.status == PENDING, Delivery.next_attempt_at < now() - late)
            .order_by(Delivery.next_attempt_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        for row in rows:
            row.next_attempt_at = now() + min(now() - row.created_at, longest)
        return list(rows)


def batches_without_report(limit: int) -> list[str]:
    """Return up to ``limit`` batches whose deliveries have all ended since their last report, if they have one."""
    last_end = func.max(Delivery.finished_at)
    finished = (
        select(Delivery.batch_id, last_end.label("ended"))
        .where(Delivery.batch_id.is_not(None))
        .group_by(Delivery.batch_id)
        .having(func.count() == func.count(Delivery.finished_at))
        .subquery()
    )
    with db.transaction() as session:
        return list(
            session.scalars(
                select(finished.c.batch_id)
                .outerjoin(Report, Report.batch_id == finished.c.batch_id)
                .where(or_(Report.batch_id.is_(None), and_(Report.written_at < finished.c.ended)))
                .limit(limit)
            )
        )


def write_report(batch_id: str) -> Report | None:
    """Write the report of the batch from its rows, over an older one; None when there is no such batch."""
    with db.transaction() as session:
        if session.get(Batch, batch_id, with_for_update=True) is None:  # two writers take turns
            return None

        def count(status: str) -> Any:
            return func.coalesce(func.sum(case((Delivery.status == status, 1), else_=0)), 0)

        total, delivered, dead, pending, attempts = session.execute(
            select(
                func.count(),
                count(DELIVERED),
                count(DEAD),
                count(PENDING),
                func.coalesce(func.sum(Delivery.attempts), 0),
            ).where(Delivery.batch_id == batch_id)
        ).one()
        return session.merge(
            Report(
                batch_id=batch_id,
                total=total,
                delivered=delivered,
                dead=dead,
                pending=pending,
                attempts=attempts,
                written_at=now(),
            )
        )

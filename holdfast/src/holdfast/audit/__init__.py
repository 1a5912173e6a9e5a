"""The running audit: how many acknowledged tasks nobody has ended, and nothing holds.

Publishers note which messages a broker acknowledged (:mod:`.publishers`), workers which ones they are done with
(:mod:`.workers`), in sets of Redis, one for each minute in which tasks are due (:mod:`.store`). A message of the sample
carries a mark (:mod:`.marks`), so publishers and workers need not agree on its size. The active beat compares the sets
(:mod:`.auditor`). What gets lost on the publisher's way makes the audit see less; it never makes it see a loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.backends.redis import RedisBackend
from celery.exceptions import ImproperlyConfigured
from celery.signals import worker_init, worker_ready
from celery.utils.log import get_logger
from redis.exceptions import RedisError

from holdfast.audit import marks, store
from holdfast.startup import at_start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from holdfast.audit.workers import Ended

logger = get_logger(__name__)


def share(app: Celery) -> float:
    """Return which share of its tasks an application audits, from 0 to 1; 0 where nothing can be audited.

    The setting is ``holdfast_audit_share``. The notes are in the Redis of the results, and only RabbitMQ says what it
    has acknowledged.

    Args:
        app: the application.

    Raises:
        ImproperlyConfigured: the setting is no such number.
    """
    given = app.conf.get("holdfast_audit_share") or 0
    try:
        part = float(given)
    except (TypeError, ValueError):
        part = -1.0
    if not 0 <= part <= 1:
        raise ImproperlyConfigured(
            f"holdfast_audit_share is {given!r}; allowed is a number from 0 (off) to 1 (every task). Of a busy "
            "application 0.1 is enough."
        )
    return part if part and possible(app) else 0.0


def possible(app: Celery) -> bool:
    """Tell whether an application has what the audit needs: RabbitMQ as its broker, its results in Redis.

    Args:
        app: the application.
    """
    return app.connection_for_write().transport.driver_type == "amqp" and isinstance(app.backend, RedisBackend)


def ended(app: Celery) -> Ended | None:
    """Return where this worker notes what has ended; None where it notes nothing."""
    found: Ended | None = vars(app).get("holdfast_ended")
    return found


def discarded(app: Celery, headers: Mapping[str, Any]) -> None:
    """Note that an operator took a message out of the dead letters for good; the audit would miss its task.

    Args:
        app: the application.
        headers: of the message.
    """
    mark = marks.of(headers)
    if mark is None or not isinstance(app.backend, RedisBackend):
        return
    try:
        with app.backend.client.pipeline(transaction=False) as pipe:
            store.add(pipe, store.ENDED, [mark])
            pipe.execute()
    except (RedisError, OSError) as error:
        logger.warning("audit: task %s will be missed, that it is discarded cannot be noted: %r", mark.task_id, error)


def install(app: Celery) -> None:
    """Let the workers of ``app`` keep notes from their start to their end."""

    def begin(worker: Any) -> None:
        if share(worker.app):
            from holdfast.audit import workers  # noqa: PLC0415 - publishers do without it

            vars(app)["holdfast_ended"] = workers.begin(worker.app)
        elif worker.app.conf.get("holdfast_audit_share"):
            logger.warning(
                "holdfast_audit_share is %s, and no task is audited: the audit needs RabbitMQ and results in Redis",
                worker.app.conf.holdfast_audit_share,
            )

    def send(consumer: Any) -> None:
        found = ended(consumer.app)
        if found:
            found.start()

    at_start(app, begin, worker_init)
    at_start(app, send, worker_ready)

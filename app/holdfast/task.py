"""The task base class: a retry that cannot be published loses no task, and no delay is too short for the broker."""

from __future__ import annotations

import math
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, override

from celery import Task as CeleryTask
from celery.exceptions import Reject
from celery.utils.time import subtract_datetimes

from holdfast.request import PutBack, unavailable

if TYPE_CHECKING:
    from celery import Celery
    from celery.result import AsyncResult


class Task(CeleryTask[Any, Any]):
    """Base class of every task of an application that :func:`install` was called on."""

    abstract = True
    Request = "holdfast.metrics.request:Request"

    @override
    def apply_async(self, args: Any = None, kwargs: Any = None, *positional: Any, **options: Any) -> AsyncResult[Any]:
        """Send the task; a delay below one second is rounded up.

        RabbitMQ's delay queues know whole seconds: stock Celery cuts 0.5 down to 0 and then refuses it.
        """
        return super().apply_async(args, kwargs, *positional, **self._whole_seconds(options))

    @override
    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Send the task again as Celery does; if no broker accepts the copy, the original goes back to its queue.

        Stock Celery answers any failed publish with ``Reject(requeue=False)``, which drops the task.

        Raises:
            PutBack: the copy was not accepted now; the original is delivered again with the same retry count.
            Reject: the copy can never be accepted (too large, not serialisable); the original is dead-lettered.
        """
        try:
            return super().retry(*args, **kwargs)
        except Reject as rejected:
            reason = rejected.args[0]
            if not unavailable(reason):
                raise
            raise PutBack(f"its retry was not accepted: {reason}") from reason

    def _whole_seconds(self, options: dict[str, Any]) -> dict[str, Any]:
        countdown, eta = options.get("countdown"), options.get("eta")
        if isinstance(eta, datetime):
            left = subtract_datetimes(eta, self.app.now()).total_seconds()
            if 0 < left < 2:  # 2, because an eta of 1.01 s may be below 1 s when Celery looks at it
                options |= {"eta": None, "countdown": math.ceil(left)}
        elif countdown:
            options |= {"countdown": math.ceil(countdown)}
        return options


def install(app: Celery) -> None:
    """Make :class:`Task` the base class of the tasks of ``app``.

    Raises:
        RuntimeError: tasks of the application exist already.
    """
    if "Task" in vars(app):
        raise RuntimeError(
            f"{app!r} has created tasks already, so they cannot get Holdfast's base class any more. Call "
            "holdfast.install(app) right after Celery(...), before the first task."
        )
    app.task_cls = "holdfast.task:Task"
    amqp: Any = app.amqp
    publish = amqp._retry_publish

    @wraps(publish)
    def publish_continuation(*args: Any, **kwargs: Any) -> Any:
        # Links and chain steps: Celery would call the finished task failed, and the rest of the chain with it
        try:
            return publish(*args, **kwargs)
        except Exception as error:
            if not unavailable(error):
                raise
            raise PutBack(f"what follows it was not accepted: {error}") from error

    amqp._retry_publish = publish_continuation

"""What every publish of an app passes before Celery builds its message: ``app.send_task``.

``delay``, ``apply_async``, canvases, retries, beat and ``send_task`` by name all end there, whatever the class of the
task, so nothing of this has to be a method of one.
"""

from __future__ import annotations

import math
from datetime import datetime
from functools import wraps
from inspect import signature
from numbers import Real
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.utils.time import subtract_datetimes
from dateutil.parser import isoparse

from holdfast.mixin import is_celerys
from holdfast.publisher.plain import PlainCalls
from holdfast.request import PutBack, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMES = tuple(signature(Celery.send_task).parameters)[2:]  # what may follow the task's name without a keyword


def install(app: Celery) -> Callable[..., Any] | None:
    """Let :func:`whole_seconds` and :class:`holdfast.request.PutBack` hold for every publish of an app.

    Returns:
        What ``app.send_task`` is from now on; None when the app had a ``send_task`` of its own, which is kept beneath.
    """
    send = app.send_task
    plain = PlainCalls(app, send).publish if is_celerys(send, Celery.send_task) else None

    @wraps(send)
    def send_task(name: str, *positional: Any, **options: Any) -> Any:
        result = plain(name, positional, options) if plain else None
        if result is not None:
            return result
        options.update(zip(_NAMES[2:], positional[2:], strict=False))  # args and kwargs stay where they are
        whole_seconds(app, options)
        not_after_expiry(app, options)
        try:
            return send(name, *positional[:2], **options)
        except Exception as error:
            if unavailable(error) and _is_running(app, options.get("task_id")):
                # Task.retry answers any error with Reject(requeue=False), which drops the task
                raise PutBack(f"its retry or replacement was not accepted: {error}") from error
            raise

    vars(app)["send_task"] = send_task
    return send_task if plain else None


def whole_seconds(app: Celery, options: dict[str, Any]) -> None:
    """Round a delay up to whole seconds, in place.

    RabbitMQ's delay queues know whole seconds: stock Celery cuts 0.5 down to 0 and then refuses it. What is not above
    zero, or no number and no time, is left to Celery.

    Args:
        app: whose clock an ``eta`` is compared with.
        options: those of ``send_task``; ``countdown`` in seconds, ``eta`` a datetime (a naive one means UTC, as in
            Celery) or its ISO text.
    """
    countdown, left = options.get("countdown"), _seconds_until(app, options.get("eta"))
    if isinstance(countdown, Real) and 0 < float(countdown) < math.inf:
        options["countdown"] = math.ceil(countdown)
    if left is not None and 0 < left < 2:  # 2, because an eta of 1.01 s may be below 1 s when Celery looks at it
        options |= {"eta": None, "countdown": math.ceil(left)}


def not_after_expiry(app: Celery, options: dict[str, Any]) -> None:
    """Deliver a task that expires before its time when it expires, in place.

    It can never run, and a worker that receives it says so (REVOKED) at once instead of at the end of its delay. Its
    new time is after its expiry, so that no difference between two clocks can make it run.

    Args:
        app: as for :func:`whole_seconds`.
        options: as for :func:`whole_seconds`; ``expires`` in seconds, a datetime or its ISO text.
    """
    expires, eta, countdown = options.get("expires"), options.get("eta"), options.get("countdown")
    life = float(expires) if isinstance(expires, Real) else _seconds_until(app, expires)
    delay = _seconds_until(app, eta) if eta else countdown
    if life is None or not isinstance(delay, Real):
        return
    last = max(0, math.floor(life)) + 1
    if float(delay) > last:
        options |= {"eta": None, "countdown": last}


def _seconds_until(app: Celery, time: object) -> float | None:
    """Return how far away a datetime or its ISO text is; None for anything else."""
    if isinstance(time, str):
        try:
            time = isoparse(time)
        except ValueError:
            return None
    return subtract_datetimes(time, app.now()).total_seconds() if isinstance(time, datetime) else None


def _is_running(app: Celery, task_id: object) -> bool:
    running: Any = app.current_worker_task
    return bool(task_id and running and running.request.id == task_id)

"""One call makes any Celery application durable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast import consumer, logs, publisher, startup, task, tracing
from holdfast.doctor import startup as doctor

if TYPE_CHECKING:
    from celery import Celery


def install(app: Celery) -> Celery:
    """Put every part of the layer into an application; call it right after ``Celery(...)``, before the first task.

    The result backend and the scheduler are chosen by name in the settings (see :mod:`holdfast.settings`).

    Args:
        app: any Celery application.

    Returns:
        The same application.
    """
    startup.install(app)
    publisher.install(app)
    consumer.install(app)
    task.install(app)
    doctor.install(app)
    logs.install()
    tracing.install(app)
    return app

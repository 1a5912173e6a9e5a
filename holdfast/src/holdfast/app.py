"""One call makes any Celery application durable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from holdfast import audit, consumer, defaults, logins, logs, notices, publisher, request, startup, tracing

if TYPE_CHECKING:
    from celery import Celery


_App = TypeVar("_App", bound="Celery[Any]")  # with a task class of its own, too
_installed: WeakSet[Celery] = WeakSet()


def install(app: _App) -> _App:
    """Put every part of the layer into an application, once; best right after ``Celery(...)``.

    Nothing of the application is replaced: the values of :mod:`holdfast.settings` are defaults below its own settings,
    wherever these come from and whenever they are set. Task classes stay as they are; an own ``Request``,
    ``worker_consumer``, ``amqp`` or ``control`` class is combined with the layer's. What cannot be combined is refused
    by name, here or when a worker starts; so is a setting of the application that loses tasks.

    Args:
        app: any Celery application; its tasks may exist already.

    Returns:
        The same application.

    Raises:
        ImproperlyConfigured: an own class cannot be combined.
    """
    if app in _installed:
        return app
    startup.install(app)
    defaults.give(app)
    publisher.install(app)
    consumer.install(app)
    request.install(app)
    notices.install(app)
    logins.install(app)
    audit.install(app)
    logs.install()
    tracing.install(app)
    _installed.add(app)
    return app

"""Refuses to start a deployment that looks right and is not: wrong versions, a missing extra, queues that can lose."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from celery.signals import beat_init, worker_init

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

MINIMUM = {
    "celery": (5, 7),  # reconnects, and the queues that RabbitMQ 4.3 still allows (celery#10290)
    "kombu": (5, 7),  # per-consumer prefetch on RabbitMQ 4.3, delay prefix that does not grow (kombu#2237)
    "amqp": (5, 4, 2),  # confirm_timeout
}


class StartupError(RuntimeError):
    """The process must not start; the message says what is wrong and what to do."""


def check_versions() -> None:
    """Check that the installed Celery, kombu and py-amqp are recent enough.

    Raises:
        StartupError: one is older than :data:`MINIMUM`.
    """
    for package, minimum in MINIMUM.items():
        found = metadata.version(package)
        if tuple(int(part) for part in found.split(".")[: len(minimum)] if part.isdecimal()) < minimum:
            wanted = ".".join(map(str, minimum))
            raise StartupError(f"{package} {found} is installed, {wanted} or newer is needed: install the lock file.")


def check_app(app: Celery) -> None:
    """Check what only the loaded application shows: the result backend's error classes and the kinds of its queues.

    Raises:
        StartupError: a result write would never be retried, or a queue can lose messages.
    """
    if OSError not in getattr(app.backend, "connection_errors", (OSError,)):
        raise StartupError(
            "The Redis result backend takes no lost connection for one, so it would never retry a write: the package "
            '"packaging" is missing (kombu#2524). Install celery with its redis extra: pip install "celery[redis]".'
        )
    if app.connection_for_write().transport.driver_type != "amqp":
        return
    for name, queue in app.amqp.queues.items():
        if (queue.queue_arguments or {}).get("x-queue-type") != "quorum":
            raise StartupError(
                f"Queue {name!r} is not described as a quorum queue, so it lives on one node and dies with it. Use "
                f'holdfast.routing.queues(("{name}",)).'
            )
        if queue.exchange.type == "direct":
            raise StartupError(
                f"Queue {name!r} is bound to a direct exchange, so a countdown would wait in a worker's memory. Use "
                f'holdfast.routing.queues(("{name}",)).'
            )


def at_start(app: Celery, check: Callable[[Celery], None]) -> None:
    """Have an application checked when a worker or beat of it starts; those of other applications do not touch it.

    Args:
        app: the application.
        check: is called with it; only a ``SystemExit`` keeps the process from starting, for Celery logs any other
            exception of a signal's receiver and goes on.
    """

    def started(sender: Any, **_: object) -> None:
        if sender.app is app:
            check(app)

    worker_init.connect(started, weak=False)
    beat_init.connect(started, weak=False)


def install(app: Celery) -> None:
    """Check the versions now, the application when a worker or beat of it starts; a failed check ends the process."""
    check_versions()

    def check(app: Celery) -> None:
        try:
            check_app(app)
        except StartupError as error:
            raise SystemExit(f"holdfast: {error}") from error

    at_start(app, check)

"""Every publish has a deadline and ends acknowledged, in an error that says why, or in a fallback store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from celery.app.amqp import AMQP
from kombu import Connection

from holdfast.mixin import mixed
from holdfast.publisher import forks, sending, transport
from holdfast.publisher.detach import detach_results
from holdfast.publisher.durable_amqp import DurableAMQP
from holdfast.publisher.errors import (
    Blocked,
    Disconnected,
    Nacked,
    NotAcknowledged,
    Refused,
    TimedOut,
    Unreachable,
    Unroutable,
)
from holdfast.publisher.many import iter_publish, publish_many
from holdfast.publisher.message import Message
from holdfast.publisher.pipeline import Outcome
from holdfast.publisher.policy import Policy
from holdfast.publisher.publisher import Fallback, Publisher

if TYPE_CHECKING:
    from celery import Celery

__all__ = [
    "Blocked",
    "Disconnected",
    "Fallback",
    "Message",
    "Nacked",
    "NotAcknowledged",
    "Outcome",
    "Policy",
    "Publisher",
    "Refused",
    "TimedOut",
    "Unreachable",
    "Unroutable",
    "install",
    "iter_publish",
    "publish_many",
    "publisher_of",
]


def install(app: Celery, fallback: Fallback | None = None) -> None:
    """Make every task publish of an app durable: ``delay``, ``apply_async``, groups, chains, chords, retries, beat.

    Call it where the app is made, before the first publish. The values of :class:`Policy` are read from the app's
    configuration as ``holdfast_publish_<name>``. On another transport than AMQP publishing stays as it is.

    Args:
        app: any Celery app.
        fallback: stores a message that no broker accepted within its deadline, for instance in an outbox; overrides
            the setting ``holdfast_publish_fallback`` (a callable or its dotted name).

    Raises:
        ImproperlyConfigured: the app's own ``amqp`` class cannot be combined with the publisher's.
    """
    installed = vars(app).get("amqp")
    if isinstance(installed, DurableAMQP):
        installed.fallback = fallback or installed.fallback
        return
    durable = mixed(app.amqp_cls, DurableAMQP, AMQP, f"The amqp class of {app!r}")
    transport.register()
    stock = app.__dict__.pop("amqp", None)
    app.amqp_cls = durable  # type: ignore[assignment]  # the stubs know only the dotted name
    amqp = cast("DurableAMQP", app.amqp)
    amqp.fallback = fallback
    if stock is not None and "queues" in stock.__dict__:
        amqp.__dict__["queues"] = stock.queues  # a worker's -Q was applied to these
    amqp.sends = sending.install(app)
    forks.free_locks(type(app), durable, Connection)
    detach_results(app)


def publisher_of(app: Celery[Any]) -> Publisher:
    """Return the publisher of this process for the cluster that an app writes to.

    Raises:
        TypeError: :func:`install` was not called for the app.
    """
    if not isinstance(app.amqp, DurableAMQP):
        raise TypeError(f"app {app.main!r} publishes with stock Celery; call holdfast.install(app) where it is created")
    return app.amqp.publisher()

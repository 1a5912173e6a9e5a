"""``publish_many``: any number of Celery signatures, published with pipelined confirms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from billiard.exceptions import SoftTimeLimitExceeded

from holdfast.publisher.durable_amqp import DurableAMQP, collecting
from holdfast.publisher.pipeline import WINDOW, Outcome, Pipeline
from holdfast.publisher.template import Templates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery import Celery
    from celery.canvas import Signature

    from holdfast.publisher.message import Wire


def publish_many(
    app: Celery[Any], signatures: Iterable[Signature[Any]], *, window: int = WINDOW, deadline: float | None = None
) -> list[Outcome]:
    """Publish signatures and return how each of their messages ended.

    A group or the header of a chord becomes several messages and outcomes, a chain one (its first task). The messages
    are what ``apply_async`` would send; while the task runs in a worker they have it as their parent.

    Args:
        app: an app on which ``holdfast.install`` was called.
        signatures: what to publish.
        window: how many messages may be unsettled at a time.
        deadline: seconds for each message; None for the setting ``holdfast_publish_deadline``.

    Returns:
        The outcomes, in the order of the messages.
    """
    return sorted(iter_publish(app, signatures, window=window, deadline=deadline), key=lambda outcome: outcome.index)


def iter_publish(
    app: Celery[Any], signatures: Iterable[Signature[Any]], *, window: int = WINDOW, deadline: float | None = None
) -> Iterator[Outcome]:
    """Publish signatures, as :func:`publish_many` does, for input that does not fit into memory.

    Returns:
        An iterator of outcomes, about in the order of the messages; nothing is published unless it is read.
    """
    amqp = app.amqp
    if not isinstance(amqp, DurableAMQP):
        raise TypeError(f"app {app.main!r} publishes with stock Celery; call holdfast.install(app) where it is created")
    if amqp.producer_pool.connections.connection.transport.driver_type != "amqp":
        raise TypeError("publish_many needs confirms, which only AMQP brokers give; publish one by one on this broker")
    return Pipeline(amqp.publisher(), window, deadline).run(_wires(app, signatures))


def _wires(app: Celery, signatures: Iterable[Signature[Any]]) -> Iterator[Wire | Exception]:
    templates = Templates(app)
    for signature in signatures:
        try:
            yield from wires_of(app, templates, signature)
        except SoftTimeLimitExceeded:
            raise  # it is meant for the caller, not for this signature
        except Exception as error:  # noqa: BLE001 - becomes the outcome of this signature; the others go on
            yield error


def wires_of(app: Celery, templates: Templates, signature: Signature[Any]) -> Iterator[Wire]:
    """Yield the messages that ``apply_async`` would send for a signature.

    Args:
        app: an app on which ``holdfast.install`` was called.
        templates: what earlier messages have taught.
        signature: what to publish.

    Raises:
        Exception: a message cannot be built; as ``apply_async`` would say.
    """
    key = templates.key(signature)
    wire = templates.fill(key, signature) if key is not None else None
    if wire is not None:
        parent = app.current_worker_task
        if parent:
            cast("Any", parent).add_trail(app.AsyncResult(cast("str", wire.task_id)))
        yield wire
        return
    with collecting() as messages:
        cast("Any", signature).apply_async()
    if key is not None:
        templates.learn(key, signature, messages[0])
    for message in messages:
        yield message.encode()

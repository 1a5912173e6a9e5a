"""Transactional outbox: a task is a row of the business transaction, a relay publishes it.

    with Session(engine) as session, session.begin():
        session.add(order)
        outbox.enqueue(session, send_invoice.s(order.id))

Either both are committed or neither. ``holdfast relay`` publishes the rows and deletes each when the broker has
acknowledged all of its messages.

At least once: a relay that dies between the acknowledgement and the deletion publishes a row again, with the same task
ids. Roughly in order: rows are published as they were enqueued, but nothing is promised between two rows; a failed row,
several relays, or two transactions that overlap change the order. What has to run after something else belongs into one
chain, which is one row.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from holdfast import extras

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from holdfast.outbox.store import enqueue
    from holdfast.outbox.table import metadata
    from holdfast.publisher import Fallback, Message

_MODULES = {"enqueue": "store", "metadata": "table"}

__all__ = ["enqueue", "fallback", "metadata"]


def fallback(transaction: Callable[[], AbstractContextManager[Session | Connection]]) -> Fallback:
    """Let ``delay`` store a task that no broker accepts.

        app.conf.holdfast_publish_fallback = outbox.fallback(engine.begin)

    This saves the caller from an outage, not from a crash: only :func:`enqueue` belongs to the business transaction.

    Args:
        transaction: opens a transaction that is committed at the end of the block: ``engine.begin``, or the ``begin``
            of a ``sessionmaker``.

    Returns:
        The fallback to give to the publisher.
    """

    with extras.needed():
        from holdfast.outbox.store import put_message  # noqa: PLC0415 - as for the names below

    def store(message: Message) -> None:
        with transaction() as session:
            put_message(session, message)

    return store


def __getattr__(name: str) -> Any:
    """Import a name that needs SQLAlchemy on its first use: the relay itself and Django's outbox do without.

    Args:
        name: one of ``__all__``.

    Raises:
        AttributeError: there is no such name.
        ImportError: SQLAlchemy is not installed; the message names the extra.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extras.needed():
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

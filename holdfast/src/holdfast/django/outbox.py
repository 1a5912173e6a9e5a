"""``enqueue``: a task is a row of the transaction on Django's connection, published after its commit."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.transaction import TransactionManagementError

from holdfast.django.models import Outbox
from holdfast.django.rows import COLUMNS, DjangoRows
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.relay import Relay
from holdfast.outbox.rows import Row, now
from holdfast.outbox.send import sender
from holdfast.outbox.workflow import Workflow, record

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from celery import Celery
    from celery.canvas import Signature

    from holdfast.outbox.send import Send
    from holdfast.publisher import Message

logger = logging.getLogger(__name__)

AT_ONCE = 1.0  # seconds that a publish after the commit may take: a request waits for it
LEASE = 10.0  # seconds after the insert for which the relay leaves the row to its process
PAUSE = 10.0  # seconds without a publish at once after one that failed: an outage must not slow down each request
MANY = 20  # callbacks of one transaction; what a bulk of tasks adds beyond is the relay's, which publishes it at once


def enqueue(signature: Signature[Any], *, using: str | None = None) -> str:
    """Store a task, chain, group or chord in the running transaction; it is published after the commit.

    The ids of all its tasks are decided now. The broker and the result store are not asked. With
    ``task_always_eager`` the task runs after the commit.

    Args:
        signature: what to publish. A chord or group is one row: all of it is published, or it stays.
        using: the database whose transaction holds the business data; None for the default one.

    Returns:
        The id of the result: of the task, of a chain's last task, of a chord's body, or of the group.

    Raises:
        TransactionManagementError: no transaction is open on this database. The task alone would be stored, without
            the data that it belongs to, which is not what an outbox is for.
        kombu.exceptions.EncodeError: an argument cannot be serialised.
        celery.exceptions.QueueNotFound: the signature names an unknown queue.
        TypeError: the arguments do not fit the task.
        ValueError: the signature has no task.
    """
    using = using or DEFAULT_DB_ALIAS
    if not transactional(using):
        raise TransactionManagementError(
            f"enqueue() was called outside of a transaction on the database {using!r}. Put it, with the change that it "
            f"belongs to, inside of `with transaction.atomic(using={using!r}):`; a task that belongs to no change is "
            "sent with delay()."
        )
    capture = captured.get()
    if capture is not None:
        return capture(signature, using)
    if signature.app.conf.task_always_eager:
        copy = signature.clone()
        result = copy.freeze()
        transaction.on_commit(copy.apply_async, using=using)
        return str(result.id)
    return put(signature.app, record(signature), using)


captured: ContextVar[Callable[[Signature[Any], str], str] | None] = ContextVar("holdfast_captured", default=None)


def transactional(using: str) -> bool:
    """Tell whether what is written now on a database of Django's waits for a commit."""
    connection = connections[using]
    return bool(connection.in_atomic_block or not connection.get_autocommit())


def put(app: Celery, workflow: Workflow, using: str) -> str:
    """Store a recorded workflow, and publish it after the commit when that is quick."""
    connection, door = connections[using], _doors.setdefault(app, Door())
    few = len(connection.run_on_commit) < MANY
    # the result store has to hear of a chord first, which may take longer than a request should wait
    prompt = connection.in_atomic_block and few and door.open and not workflow.chords
    leased_until = now() + timedelta(seconds=LEASE) if prompt else None
    row = Outbox.objects.using(using).create(
        task_id=workflow.task_id, task=workflow.task[:255], workflow=workflow.dumps(), not_before=leased_until
    )
    if leased_until is not None:
        stored = Row(*(getattr(row, name) for name in COLUMNS))
        transaction.on_commit(AtOnce(app, using, stored, leased_until), using=using, robust=True)
    return workflow.task_id


def store_message(message: Message) -> None:
    """Store a task that no broker accepts, as the setting ``holdfast_publish_fallback`` of the Celery application.

    Its value is ``"holdfast.django.outbox:store_message"``. It saves the caller from an outage, not from a crash. In
    a transaction of the default database the row belongs to it: a rollback takes the task, too.

    Args:
        message: what was not published.
    """
    workflow = Workflow(message.task_id or "", [message])
    Outbox.objects.using(DEFAULT_DB_ALIAS).create(
        task_id=workflow.task_id, task=workflow.task[:255], workflow=workflow.dumps()
    )


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Publishes one row after the commit; until ``leased_until`` no relay does."""

    app: Celery
    using: str
    row: Row
    leased_until: datetime

    def __call__(self) -> None:
        """Publish the row; what does not work is left to the relay."""
        door = _doors[self.app]
        late = now() > self.leased_until - timedelta(seconds=2 * AT_ONCE)  # a long transaction: a relay may have it
        if late or not door.open:
            return
        door.send = door.send or sender(self.app, AT_ONCE)
        rows = DjangoRows(self.using)
        if Relay(self.app, rows, door.send, Metrics(rows, patience=LEASE)).publish([self.row]).kept:
            door.closed_until = monotonic() + PAUSE


@dataclass(slots=True)
class Door:
    """The way of one app from this process to the broker.

    Attributes:
        send: made at the first publish.
        closed_until: ``time.monotonic()`` at which it is tried again after a failure.
    """

    send: Send | None = field(default=None)
    closed_until: float = 0.0

    @property
    def open(self) -> bool:
        """Tell whether a publish at once is worth trying."""
        return monotonic() >= self.closed_until


_doors: WeakKeyDictionary[Celery[Any], Door] = WeakKeyDictionary()

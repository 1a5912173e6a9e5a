"""``task_always_eager`` in tests: an enqueued task runs where it is enqueued, after the commit; no row is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import chord, group
from sqlalchemy import event
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from celery.canvas import Signature
    from sqlalchemy import Connection
    from sqlalchemy.orm import SessionTransaction

_WAITING, _READY = "holdfast_eager_waiting", "holdfast_eager_ready"  # in Session.info


def run_after_commit(session: Session | Connection, signature: Signature[Any]) -> str:
    """Run a task, chain, group or chord in this thread when the session's transaction is committed; not otherwise.

    What the task raises reaches whoever commits if ``task_eager_propagates`` is set, as with ``delay``.

    Args:
        session: a session. Nothing tells when the transaction of a bare connection is committed.
        signature: what to run; it is not changed.

    Returns:
        The id of the result.

    Raises:
        TypeError: it is a connection.
    """
    if not isinstance(session, Session):
        raise TypeError(
            "task_always_eager is set, and the transaction of a bare connection does not tell when it is committed. "
            "Enqueue with a Session, or leave task_always_eager unset and look into the table holdfast_outbox."
        )
    run = signature.clone()
    result = _last(run).freeze()
    if not event.contains(session, "after_commit", _committed):
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_soft_rollback", _rolled_back)
        event.listen(session, "after_transaction_end", _ended)
    transaction = session.get_nested_transaction() or session.get_transaction() or session.begin()
    session.info.setdefault(_WAITING, []).append((transaction, run))
    return str(result.id)


def _last(run: Any) -> Any:
    """Return the part whose result is that of the whole; run at once, a chain gives no other part its own id."""
    while isinstance(run, chord) or (hasattr(run, "tasks") and not isinstance(run, group)):
        run = run.body if isinstance(run, chord) else run.tasks[-1]
    return run


def _committed(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info[_READY] = [run for _, run in session.info.pop(_WAITING, ())]


def _rolled_back(session: Session, transaction: SessionTransaction) -> None:
    waiting = session.info.get(_WAITING, ())
    session.info[_WAITING] = [one for one in waiting if not _within(one[0], transaction)]


def _within(inner: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while inner is not None and inner is not outer:
        inner = inner.parent
    return inner is outer


def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:  # its connection is free now: the task may need one
        for run in session.info.pop(_READY, ()):
            run.apply()

"""The tasks of the load; each notes in the ledger that it started and ended, before it reports success.

A worker runs them when ``HOLDFAST_IMPORTS`` names this module. The run is the first part of a task's id, so a message
carries nothing else for the drill.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import chord, shared_task
from celery.signals import task_success
from kombu.exceptions import OperationalError
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from drill.ledger import SUFFIX, Writer
from holdfast import inbox
from webhooks import db

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Task

PREFIX = "drill."
metadata = MetaData()
effects = Table(
    "drill_effects",  # no unique key: an effect applied twice must be seen, not refused
    metadata,
    Column("id", Integer, primary_key=True),
    Column("task_id", String(255), nullable=False, index=True),
)


class PoisonError(Exception):
    """What a task raises that must end in the dead-letter queue."""


def run_of(task_id: str) -> str:
    """Return the run that a task id belongs to."""
    return task_id.partition(".")[0]


@shared_task(bind=True, name=f"{PREFIX}short")
def short(self: Task[Any, Any], seconds: float) -> str:
    """Work for some seconds."""
    with _running(self):
        time.sleep(seconds)
    return str(self.request.id)


@shared_task(bind=True, name=f"{PREFIX}effect")
def effect(self: Task[Any, Any]) -> str:
    """Change the database once, however often it runs."""
    task_id = str(self.request.id)
    with _running(self), db.transaction() as session:
        inbox.once(session, task_id, lambda: bool(session.execute(insert(effects).values(task_id=task_id))))
    return task_id


@shared_task(bind=True, name=f"{PREFIX}retrying", max_retries=None)
def retrying(self: Task[Any, Any], failures: int) -> str:
    """Fail and retry after a second for the first ``failures`` runs."""
    with _running(self, final=self.request.retries >= failures):
        pass
    if self.request.retries < failures:
        raise self.retry(countdown=1)
    return str(self.request.id)


@shared_task(bind=True, name=f"{PREFIX}fan", max_retries=None)
def fan(self: Task[Any, Any], width: int) -> str:
    """Publish a chord of ``width`` tasks and a body, all with ids made of this one's."""
    task_id = str(self.request.id)
    header = [short.s(0.01).set(task_id=f"{task_id}.h{number}") for number in range(width)]
    children = [*(f"{task_id}.h{number}" for number in range(width)), f"{task_id}.b"]
    book = _book(run_of(task_id))
    with _running(self):
        for child in children:
            number = book.append("attempt", id=child, task="chord", path="worker")
        book.commit(number)
        try:
            chord(header)(join.s().set(task_id=children[-1]))
        except OperationalError as error:
            for child in children:
                book.append("outcome", id=child, result="error", error=type(error).__name__)
            raise self.retry(countdown=2, exc=error) from error
        for child in children:
            book.append("outcome", id=child, result="acknowledged")
    return task_id


@shared_task(bind=True, name=f"{PREFIX}join")
def join(self: Task[Any, Any], results: list[str]) -> int:
    """End a chord."""
    with _running(self):
        return len(results)


@shared_task(bind=True, name=f"{PREFIX}poison")
def poison(self: Task[Any, Any], how: str) -> None:
    """Fail for good: ``raise`` an exception, or ``kill`` the process at every run.

    Raises:
        PoisonError: always, unless it kills the process.
    """
    _book(run_of(str(self.request.id))).append("start", id=self.request.id, retries=0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise PoisonError(how)


@contextmanager
def _running(task: Task[Any, Any], *, final: bool = True) -> Iterator[None]:
    """Note the start, run the block, note the end on the disk; a block that raises has no end."""
    task_id, retries = str(task.request.id), task.request.retries
    book = _book(run_of(task_id))
    book.append("start", id=task_id, retries=retries, task=task.name)
    yield
    book.commit(book.append("end", id=task_id, retries=retries, final=final))


def _note_stored(sender: Task[Any, Any], **_: object) -> None:
    """Note that the result store took the result: Celery sends this signal after that."""
    if sender.name.startswith(PREFIX):
        task_id = str(sender.request.id)
        _book(run_of(task_id)).append("stored", id=task_id)


task_success.connect(_note_stored, weak=False)


def _book(run: str) -> Writer:
    return _open(run, os.getpid())


@lru_cache
def _open(run: str, pid: int) -> Writer:
    """Open this process's file of a run; the folder was made by the drill, so an unknown run is an error."""
    host = socket.gethostname()
    folder = Path(os.environ.get("DRILL_LEDGER", "/ledger")) / run
    return Writer(folder / f"{host}-{pid}-{time.time_ns():x}{SUFFIX}", run, host)

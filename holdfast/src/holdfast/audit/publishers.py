"""What a publisher notes: which messages of the sample a broker has acknowledged.

A publish only puts a note into memory; a thread writes the notes. What cannot be written is tried again for
:data:`OLD` seconds, as after a failover: a note that came after the task's end was noted, and both were taken out,
would look like a loss. Older notes are dropped, as are those of a process that is killed: the audit sees fewer tasks
then, and no false loss.
"""

from __future__ import annotations

import atexit
import os
from queue import Empty, SimpleQueue
from threading import Thread
from time import sleep, time
from typing import TYPE_CHECKING

from celery.utils.log import get_logger
from redis.exceptions import RedisError

from holdfast.audit import marks, share, store

if TYPE_CHECKING:
    from celery import Celery

    from holdfast.audit.marks import Mark

logger = get_logger(__name__)

PAUSE = 0.5  # seconds in which notes gather
MOST = 20_000  # notes in memory
OLD = 60.0  # seconds after its publish when a note is too late; below the SETTLE of the auditor


class Acknowledged:
    """The notes of one process. Safe to share between threads and across forks; adding one waits for nothing.

    Args:
        app: the application, whose results' Redis takes the notes.
        part: the share of tasks that is audited, above 0.
    """

    def __init__(self, app: Celery, part: float) -> None:
        self._app = app
        self._limit = part * marks.WHOLE
        self._pid = 0
        self._waiting: SimpleQueue[Mark] = SimpleQueue()  # a signal handler may publish in the middle of a `put`
        self._complained = False

    def stamp(self, task_id: str) -> str:
        """Return the time of a message that is published now, with the sign if it belongs to the sample."""
        return marks.stamp(task_id, self._limit)

    def add(self, mark: Mark) -> None:
        """Note that a broker has acknowledged a message."""
        if self._pid != os.getpid():
            self._begin()
        if self._waiting.qsize() < MOST:
            self._waiting.put(mark)

    def _begin(self) -> None:
        self._waiting = SimpleQueue()  # what is in the old one is written by the process that was forked
        self._pid = os.getpid()
        atexit.register(self._at_exit, self._pid)
        Thread(target=self._run, name="audit", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._waiting.put(self._waiting.get())  # a process that ends now writes it, too
            sleep(PAUSE)
            self.write()

    def _at_exit(self, pid: int) -> None:
        if pid == os.getpid():
            self.write()

    def write(self) -> None:
        """Write what waits."""
        batch: list[Mark] = []
        try:
            while len(batch) < MOST:
                batch.append(self._waiting.get_nowait())
        except Empty:
            pass
        fresh = [mark for mark in batch if mark.published > time() - OLD]
        if not fresh:
            return
        try:
            with self._app.backend.client.pipeline(transaction=False) as pipe:
                store.add(pipe, store.ACKNOWLEDGED, fresh)
                pipe.execute()
            self._complained = False
        except (RedisError, OSError) as error:
            for mark in fresh:  # it may have been written: twice is the same as once
                self._waiting.put(mark)
            (logger.debug if self._complained else logger.warning)(
                "audit: the result store does not take notes of acknowledged tasks; those that wait for longer than "
                "%d s are left out: %r",
                OLD,
                error,
            )
            self._complained = True


def notes(app: Celery) -> Acknowledged | None:
    """Return where this process notes what is acknowledged for an application; None when nothing is audited.

    Raises:
        ImproperlyConfigured: as :func:`holdfast.audit.share`.
    """
    known = vars(app)
    if "holdfast_acknowledged" not in known:
        part = share(app)
        known["holdfast_acknowledged"] = Acknowledged(app, part) if part else None
    found: Acknowledged | None = known["holdfast_acknowledged"]
    return found

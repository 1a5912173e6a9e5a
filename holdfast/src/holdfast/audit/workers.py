"""What a worker notes: which messages of the sample it is done with.

A missing note looks like a loss, so it must not get lost. It is in a file before the message is acknowledged: a line
that the kernel has survives ``kill -9``. A thread sends the files, and deletes each once Redis has it on disk. Files
of a worker that was killed are sent by the next one of the host.
"""

from __future__ import annotations

import atexit
import fcntl
import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from threading import Event, Lock, Thread
from time import monotonic, time
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zlib import crc32

from celery.utils.log import get_logger
from celery.worker import state
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from holdfast import pulse
from holdfast.audit import marks, store
from holdfast.audit.empty import EmptyQueues
from holdfast.audit.marks import Mark

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

PAUSE = 1.0  # seconds between two times of sending
LOOK = 20.0  # seconds between two looks at what this worker holds, and at what others have left
CONFIRM = 1000  # milliseconds that the replicas' disks may take


class Ended:
    """The notes of one worker.

    Args:
        app: the application, whose results' Redis takes the notes.
        folder: for the files; workers of the host that write to the same Redis share it.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, app: Celery, folder: Path) -> None:
        self._app = app
        self._folder = folder
        self._name = uuid4().hex
        self._count = 0
        self._lock = Lock()
        self._sending = Lock()
        self._stop = Event()
        self._look_at = 0.0
        self._complained = False
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._owner = _owned(folder / f"{self._name}.owner")
        self._file = self._opened()

    def start(self) -> None:
        """Send from a thread, and look at the queues from another one.

        The pool's first children are there: one that is forked while a thread imports a module waits for it for ever.
        """
        Thread(target=self._run, name="audit", daemon=True).start()
        EmptyQueues(self._app).start()

    def stop(self) -> None:
        """Send what is there, and let go of the files."""
        self._stop.set()
        self.send()  # what an outage has left
        self.send()  # what came since
        with self._sending:
            files = self._files(self._name)
            if not any(path.stat().st_size for path in files):
                for path in (*files, self._folder / f"{self._name}.owner"):
                    path.unlink(missing_ok=True)

    # -- the main loop's part

    def follow(self, message: Any) -> None:
        """Note the end of a message when it comes.

        Args:
            message: of kombu, just received.
        """
        headers = message.headers or {}
        mark = marks.of(headers)
        if mark is None or hasattr(message, "followed"):
            return
        message.followed = True
        lane = f"{message.queue} {message.properties.get('priority') or 0}"
        if headers.get("x-delivery-count"):
            self.note(store.RETURNED, mark, lane)
        ack, reject = message.ack, message.reject

        def acked(*args: Any, **kwargs: Any) -> None:
            self.note(store.ENDED, mark, lane)
            ack(*args, **kwargs)

        def rejected(requeue: bool = False) -> None:
            if not requeue:
                self.note(store.ENDED, mark, lane)
            reject(requeue)

        message.ack, message.reject = acked, rejected

    def note(self, kind: str, mark: Mark, lane: str) -> None:
        """Write one line; a full disk must not keep a message from being settled.

        Args:
            kind: ``ended`` or ``returned``.
            mark: of the message.
            lane: its queue and priority.
        """
        line = f"{kind}\t{mark.minute}\t{mark.member}\t{lane}\n".encode()
        try:
            with self._lock:
                os.write(self._file, line)
        except OSError as error:
            self._complain("cannot be written", error)

    # -- the thread's part

    def _run(self) -> None:
        while not self._stop.wait(PAUSE):
            self.send()

    def send(self) -> None:
        """Send what is there; what cannot be sent stays for the next time."""
        with self._sending:
            try:
                if all(self._sent(path) for path in self._closed()) and monotonic() >= self._look_at:
                    self._look_at = monotonic() + LOOK
                    self._tell_held()
                    self._inherit()
                self._complained = False
            except (RedisError, OSError) as error:
                self._complain("wait in this host's files", error)

    def _complain(self, what: str, error: Exception) -> None:
        if not self._complained:
            logger.warning("audit: notes of ended tasks %s: %r", what, error)
        self._complained = True

    def _opened(self) -> int:
        self._count += 1
        path = self._folder / f"{self._name}.{self._count:08d}"
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _files(self, name: str) -> list[Path]:
        return sorted(path for path in self._folder.glob(f"{name}.*") if path.suffix != ".owner")

    def _closed(self) -> list[Path]:
        """Return this worker's files that are complete: all but the one that it writes now."""
        files = self._files(self._name)
        if len(files) == 1 and files[0].stat().st_size:
            with self._lock:
                old, self._file = self._file, self._opened()
            os.close(old)
            return files
        return files[:-1]

    def _sent(self, path: Path) -> bool:
        """Send a file and delete it once enough disks have its notes.

        Raises:
            RedisError: they have not.
            OSError: the file cannot be read.
        """
        notes: dict[str, list[Mark]] = defaultdict(list)
        passed: dict[str, int] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the disk was full in the middle of a line
                kind, minute, member, lane = line.split("\t")
                notes[kind].append(Mark(int(minute), member))
                passed[lane] = max(passed.get(lane, 0), int(minute) * 60)
        backend: Any = self._app.backend
        with backend.client.pipeline(transaction=False) as pipe:
            for kind, found in notes.items():
                store.add(pipe, kind, found)
            if passed:
                pipe.zadd(store.PASSED, passed, gt=True)
            # a store that promises nothing of its results is asked for no more here
            needed = backend.confirmation() if hasattr(backend, "confirmation") else None
            if needed:
                needed.ask(pipe, CONFIRM)
            answers = pipe.execute()
        missing = needed.missing(answers) if needed else None
        if missing:
            raise RedisConnectionError(f"the notes are {missing}")
        path.unlink()
        return True

    def _tell_held(self) -> None:
        """Note what this worker holds: such a task is not lost, however long it runs."""
        found = _marks_at_hand()
        if not found:
            return
        minute = int(time() // 60)
        with self._app.backend.client.pipeline(transaction=False) as pipe:
            pipe.sadd(store.key(store.HELD, minute), *(mark.member for mark in found))
            pipe.expire(store.key(store.HELD, minute), 2 * store.HELD_FOR)
            pipe.execute()

    def _inherit(self) -> None:
        """Send the files of workers that are no more."""
        for owner in self._folder.glob("*.owner"):
            if owner.stem == self._name:
                continue
            with suppress(BlockingIOError, FileNotFoundError):  # it lives, or somebody else was first
                lock = _owned(owner)
                try:
                    for path in self._files(owner.stem):
                        self._sent(path)
                    owner.unlink()
                finally:
                    os.close(lock)


def _owned(path: Path) -> int:
    """Return the open file of an owner, locked: a lock of ``lockf`` belongs to the process, not to its children.

    Raises:
        BlockingIOError: another process owns it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(file)
        raise
    return file


def _marks_at_hand() -> list[Mark]:
    """Return the marks of the messages that this worker has and has not settled."""
    while True:
        try:
            requests: list[Any] = list(state.reserved_requests)
        except RuntimeError:  # the main loop has changed the set meanwhile
            continue
        found = (marks.of(getattr(request.message, "headers", None) or {}) for request in requests)
        return [mark for mark in found if mark]


def begin(app: Celery) -> Ended:
    """Keep notes from now on, in this worker; they are sent from :meth:`Ended.start` on."""
    place = f"audit-{crc32(str(app.conf.result_backend).encode()):08x}"  # another Redis, other files
    try:
        made = Ended(app, pulse.directory() / place)
    except OSError as error:
        logger.warning("audit: notes of a worker that is killed get lost, set HOLDFAST_PULSE_DIR: %s", error)
        made = Ended(app, Path(mkdtemp(prefix="holdfast-audit-")))
    atexit.register(made.stop)  # a cold shutdown sends no signal; the pool's children end in another way
    return made

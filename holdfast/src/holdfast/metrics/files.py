"""Where a worker and its children count: one mapped file each, added up by the parent when Prometheus asks.

This is prometheus_client's multiprocess mode with three differences:

- A file belongs to a place in the pool, not to a process id: a replaced child goes on with the file of the one before,
  so a worker that replaces children for weeks has as many files as on its first day.
- A file has its blocks before it is mapped: writing into a hole of a full disk kills a process (SIGBUS).
- The folder belongs to one parent and is removed with it; those of killed parents are removed at the next start.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
from typing import TYPE_CHECKING

from billiard.process import current_process
from celery.signals import worker_process_init
from prometheus_client import values

from holdfast import pulse

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

SIZE = 1 << 20  # bytes of a file: thousands of numbers; it grows when there are more
KINDS = ("counter", "histogram")  # the kinds of metrics that children have


class CountFiles:
    """The files of one worker, beat or relay.

    Attributes:
        folder: where they are.
        owner: part of the name of this process's files.
        counting: False in a process that must not write: one forked by a task, or one whose disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = str(os.getpid())
        self.counting = True
        self._parent = os.getpid()

    def open(self) -> None:
        """Make the folder and let every metric made from now on count in it.

        Raises:
            OSError: the disk is full or not writable.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for old in self.folder.parent.iterdir():
            if old == self.folder or not (old.name.isdecimal() and pulse.alive(int(old.name))):
                shutil.rmtree(old, ignore_errors=True)
        self.folder.mkdir()
        atexit.register(self._remove)
        self._allocate()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.folder)  # prometheus_client reads it for each file it opens
        values.ValueClass = values.MultiProcessValue(lambda: self.owner)  # type: ignore[no-untyped-call]  # untyped there
        os.register_at_fork(after_in_child=self._leave)
        worker_process_init.connect(self._adopt, weak=False)

    def _leave(self) -> None:
        """Write nothing in a forked process until it turns out to be a child of the pool."""
        self.owner = str(os.getpid())
        self.counting = False

    def _adopt(self, **_: object) -> None:
        """Give a child of the pool the files of its place."""
        place = getattr(current_process(), "index", None)
        if place is None:  # the pool has no processes of its own
            return
        self.owner = f"child{place}"
        try:
            self._allocate()
        except OSError as error:
            logger.warning("metrics: this child counts nothing, %s cannot be written: %s", self.folder, error)
        else:
            self.counting = True

    def _allocate(self) -> None:
        for kind in KINDS:
            path = self.folder / f"{kind}_{self.owner}.db"
            if path.exists():
                continue
            draft = path.with_suffix(".draft")
            with draft.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SIZE)
            draft.replace(path)  # a process killed in between leaves no empty file, which could not be read

    def _remove(self) -> None:
        if os.getpid() == self._parent:
            shutil.rmtree(self.folder, ignore_errors=True)


def start(wanted: bool) -> CountFiles | None:
    """Begin to count in files, if this process is one that serves metrics.

    Args:
        wanted: whether it is.

    Returns:
        None when numbers stay inside the process: not wanted, or not possible, which is logged.
    """
    if not wanted:
        return None
    try:
        files = CountFiles(pulse.directory() / "metrics" / str(os.getpid()))
        files.open()
    except OSError as error:
        logger.warning("metrics: only the state of this process is served, its files cannot be written: %s", error)
        return None
    return files

"""Append-only files that say what was attempted, acknowledged and executed, and that cannot lose a record unnoticed.

One file per writing process. A line is ``CHECKSUM JSON``; the checksum covers all lines before it, and each record has
the next number, so a dropped, changed or swapped record shows. How far the file reaches stands in a second file of 8
bytes (``.head``), so a cut-off end shows, too. Both survive ``kill -9`` of the writer: nothing waits in the process.

Both files are mapped: a record costs no system call, in which a thread would let go of the interpreter and hold up all
that wait for the ledger. So an open file ends in the NUL bytes that are reserved for its next records.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIX = ".ledger"
_encode = json.JSONEncoder(separators=(",", ":")).encode
_HEAD = struct.Struct("Q")  # checksum of the last record and its number in one word, so nobody ever reads half of it
CHUNK = 1 << 18  # bytes by which a file grows: a thousand records and more


class Writer:
    """Writes one file; safe to share between threads.

    Args:
        path: the file to create; it must not exist.
        run: id of the drill run, in every record.
        source: who writes, for people.

    Attributes:
        count: records so far.
    """

    def __init__(self, path: Path, run: str, source: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._file = os.open(path, flags, 0o644)
        self._map = _reserve(self._file, CHUNK)
        head = os.open(path.with_suffix(".head"), flags, 0o644)
        self._head = memoryview(_reserve(head, _HEAD.size)).cast("Q")
        os.close(head)  # the mapping stays
        self._run = _encode(run)
        self._checksum = zlib.crc32(path.name.encode())  # a file under another's name does not verify
        self._end = self.count = self._durable = 0
        self._lock, self._disk = threading.Lock(), threading.Lock()
        self.name = path.stem
        self.commit(self.append("open", source=source, pid=os.getpid()))

    def append(self, kind: str, **fields: Any) -> int:
        """Add a record; it survives the death of this process, not yet that of the machine.

        Args:
            kind: what happened.
            fields: JSON values; ``n``, ``t``, ``r`` and ``k`` are taken.

        Returns:
            The record's number, to be given to :meth:`commit`.

        Raises:
            OSError: the disk is full; the file is damaged from now on.
        """
        said = _encode({"k": kind, **fields})[:-1]
        with self._lock:
            number = self.count + 1
            body = f'{said},"r":{self._run},"t":{time.time():.6f},"n":{number}}}'.encode()
            self._checksum = zlib.crc32(body, self._checksum)
            try:
                self.put(b"%08x %s\n" % (self._checksum, body))
            finally:  # also when it did not fit, so that it is missed
                self.count = number
                self._head[0] = self._checksum << 32 | number
            return number

    def commit(self, number: int) -> None:
        """Return when the record ``number`` and all before it are on the disk; one flush serves all waiting threads."""
        with self._disk:
            if self._durable < number:
                reached = self.count
                os.fdatasync(self._file)
                self._durable = reached

    def close(self) -> None:
        """Mark the file as complete and close it."""
        self.append("close")
        with self._lock:
            self._head.release()
            self._map.close()
        os.truncate(self._file, self._end)
        os.fsync(self._file)
        os.close(self._file)

    def put(self, line: bytes) -> None:
        """Write a line behind the last one; :meth:`append` makes the lines, and calls this under the lock."""
        end = self._end + len(line)
        if end > len(self._map):
            self._map = _reserve(self._file, end + CHUNK)
        self._map[self._end : end] = line
        self._end = end


def _reserve(file: int, size: int) -> mmap.mmap:
    """Map a file that has so many bytes of the disk: writing into a hole of a full disk kills a process (SIGBUS)."""
    os.posix_fallocate(file, 0, size)
    return mmap.mmap(file, size)


def flush(folder: Path) -> None:
    """Put all files of a run on the disk, also those of killed writers."""
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())


@dataclass
class Book:
    """What one file holds.

    Attributes:
        name: of the file, without suffix.
        records: in order; each has ``n`` (number), ``t`` (Unix time), ``r`` (run), ``k`` (kind) and its fields.
        damage: why the file cannot be trusted, in words; empty when it can.
    """

    name: str
    records: list[dict[str, Any]] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    @property
    def closed(self) -> bool:
        """Whether the writer ended in order; one that was killed did not, and its last outcomes are unknown."""
        return bool(self.records) and self.records[-1]["k"] == "close"


def read(path: Path, run: str) -> Book:
    """Read one file and verify it.

    Args:
        path: the file.
        run: the run that all its records must belong to.
    """
    book = Book(path.stem)
    try:
        (head,) = _HEAD.unpack(path.with_suffix(".head").read_bytes())
    except (OSError, struct.error):
        book.damage.append(f"{path.name}: its .head file is missing or cut, so its length cannot be checked")
        return book
    last, count = divmod(head, 1 << 32)
    checksum = zlib.crc32(path.name.encode())
    for number, line in enumerate(_lines(path), start=1):
        checksum = zlib.crc32(line[9:], checksum)
        try:
            record = _verified(line, checksum, number, run)
        except ValueError as error:
            if number <= count:  # beyond, it is just being written, or its writer was killed then
                book.damage.append(f"{path.name}: record {number} {error}")
            return book
        book.records.append(record)
        if number == count and checksum != last:
            book.damage.append(f"{path.name}: record {number} is not the one that was written")
    if len(book.records) < count:
        book.damage.append(f"{path.name}: {count} records were written, {len(book.records)} are there")
    return book


def _verified(line: bytes, checksum: int, number: int, run: str) -> dict[str, Any]:
    """Return the record of a line.

    Raises:
        ValueError: it is not the record that belongs there.
    """
    try:
        record: dict[str, Any] = json.loads(line[9:])
    except ValueError as error:
        raise ValueError("is not readable") from error
    if line[:9] != b"%08x " % checksum or record["n"] != number or record["r"] != run:
        raise ValueError("is changed, out of order, or follows a missing one")
    return record


def read_all(folder: Path, run: str) -> list[Book]:
    """Read every file of a run; a ``.head`` without its file is a damaged book."""
    return [read(path, run) for path in sorted({path.with_suffix(SUFFIX) for path in _files(folder)})]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in {SUFFIX, ".head"}]


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the complete lines; what follows the last one is half a record of a killed writer, or reserved."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]

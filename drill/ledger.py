"""Append-only files that say what was attempted, acknowledged and executed, and that cannot lose a record unnoticed.

One file per writing process. A line is ``CHECKSUM JSON``; the checksum covers all lines before it, and each record has
the next number, so a dropped, changed or swapped record shows. How far the file reaches stands in a second file of 12
bytes (``.head``), so a cut-off end shows, too. Both survive ``kill -9`` of the writer: nothing waits in the process.
"""

from __future__ import annotations

import json
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
_HEAD = struct.Struct("<QI")  # number of records, checksum of the last one


class Writer:
    """Writes one file; safe to share between threads.

    Args:
        path: the file to create; it must not exist.
        run: id of the drill run, in every record.
        source: who writes, for people.
    """

    def __init__(self, path: Path, run: str, source: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = os.open(path, flags | os.O_APPEND, 0o644)
        self._head = os.open(path.with_suffix(".head"), flags, 0o644)
        self._run = run
        self._checksum = zlib.crc32(path.name.encode())  # a file under another's name does not verify
        self._count = self._durable = 0
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
        """
        with self._lock:
            number = self._count + 1
            record = {"n": number, "t": round(time.time(), 6), "r": self._run, "k": kind, **fields}
            body = _encode(record).encode()
            self._checksum = zlib.crc32(body, self._checksum)
            self._put(b"%08x %s\n" % (self._checksum, body))
            self._count = number
            os.pwrite(self._head, _HEAD.pack(number, self._checksum), 0)
            return number

    def commit(self, number: int) -> None:
        """Return when the record ``number`` and all before it are on the disk; one flush serves all waiting threads."""
        with self._disk:
            if self._durable < number:
                reached = self._count
                os.fdatasync(self._file)
                self._durable = reached

    def close(self) -> None:
        """Mark the file as complete and close it."""
        self.commit(self.append("close"))
        os.close(self._file)
        os.close(self._head)

    def _put(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes of a record fit: the ledger's disk is full")


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
        count, last = _HEAD.unpack(path.with_suffix(".head").read_bytes())
    except (OSError, struct.error):
        book.damage.append(f"{path.name}: its .head file is missing or cut, so its length cannot be checked")
        return book
    checksum = zlib.crc32(path.name.encode())
    for line in _lines(path):
        number = len(book.records) + 1
        try:
            record = json.loads(line[9:])
        except ValueError:
            book.damage.append(f"{path.name}: record {number} is not readable")
            return book
        checksum = zlib.crc32(line[9:], checksum)
        if line[:9] != b"%08x " % checksum or record["n"] != number or record["r"] != run:
            book.damage.append(f"{path.name}: record {number} is changed, out of order, or follows a missing one")
            return book
        book.records.append(record)
        if number == count and checksum != last:
            book.damage.append(f"{path.name}: record {number} is not the one that was written")
    if len(book.records) < count:
        book.damage.append(f"{path.name}: {count} records were written, {len(book.records)} are there")
    return book


def read_all(folder: Path, run: str) -> list[Book]:
    """Read every file of a run; a ``.head`` without its file is a damaged book."""
    stems = {path.with_suffix(SUFFIX) for path in folder.iterdir() if path.suffix in {SUFFIX, ".head"}}
    return [read(path, run) for path in sorted(stems)]


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the complete lines; a last one without its end was cut by the writer's death and is no record."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]

"""A ledger shows everything that was taken from it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drill import ledger

RUN = "run1"


def written(path: Path, records: int) -> Path:
    writer = ledger.Writer(path, RUN, "test")
    for number in range(records):
        writer.append("attempt", id=f"task-{number}")
    writer.close()
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return written(tmp_path / "p.ledger", 20)


def test_what_is_written_is_read(book: Path) -> None:
    read = ledger.read(book, RUN)
    assert read.damage == []
    assert read.closed
    assert [r["id"] for r in read.records[1:-1]] == [f"task-{n}" for n in range(20)]


@settings(deadline=None)  # the machine may be busy
@given(first=st.integers(1, 21), count=st.integers(1, 5))
def test_removed_lines_are_noticed(first: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "p.ledger", 20)
        lines = path.read_bytes().splitlines(keepends=True)
        del lines[first : first + count]
        path.write_bytes(b"".join(lines))
        assert ledger.read(path, RUN).damage


@settings(deadline=None)  # the machine may be busy
@given(position=st.integers(0, 10_000))
def test_a_truncated_file_is_noticed_wherever_it_is_cut(position: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "p.ledger", 5)
        os.truncate(path, position % path.stat().st_size)
        assert ledger.read(path, RUN).damage


@settings(deadline=None)  # the machine may be busy
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed(position: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "p.ledger", 5)
        content = bytearray(path.read_bytes())
        content[position % (len(content) - 1)] ^= 1 << bit
        path.write_bytes(bytes(content))
        assert ledger.read(path, RUN).damage


def test_swapped_lines_are_noticed(book: Path) -> None:
    lines = book.read_bytes().splitlines(keepends=True)
    lines[3], lines[4] = lines[4], lines[3]
    book.write_bytes(b"".join(lines))
    assert ledger.read(book, RUN).damage


def test_a_missing_head_or_file_is_damage(tmp_path: Path, book: Path) -> None:
    written(tmp_path / "q.ledger", 1)
    book.with_suffix(".head").unlink()
    (tmp_path / "q.ledger").unlink()
    assert [bool(read.damage) for read in ledger.read_all(tmp_path, RUN)] == [True, True]


def test_a_file_of_another_run_or_name_is_damage(tmp_path: Path, book: Path) -> None:
    assert ledger.read(book, "run2").damage
    for suffix in (".ledger", ".head"):
        book.with_suffix(suffix).rename(tmp_path / f"other{suffix}")
    assert ledger.read(tmp_path / "other.ledger", RUN).damage


@pytest.mark.parametrize("torn", [b'00000000 {"k":"outc', b'00000000 {"k":"\0\0\0\0\0\0","n":3}\n'])
def test_half_a_record_after_the_head_is_the_mark_of_a_killed_writer(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "p.ledger"
    writer = ledger.Writer(path, RUN, "test")
    writer.append("attempt", id="a")
    content = path.read_bytes()
    path.write_bytes(content.rstrip(b"\0") + torn + bytes(100))
    read = ledger.read(path, RUN)
    assert (read.damage, read.closed, len(read.records)) == ([], False, 2)


def test_a_head_that_a_reboot_left_behind_hides_no_record(tmp_path: Path) -> None:
    path = tmp_path / "p.ledger"
    writer = ledger.Writer(path, RUN, "test")
    head = path.with_suffix(".head").read_bytes()
    writer.commit(writer.append("end", id="a"))
    path.with_suffix(".head").write_bytes(head)
    read = ledger.read(path, RUN)
    assert (read.damage, len(read.records)) == ([], 2)


def test_a_file_grows_and_is_cut_to_its_records_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "p.ledger"
    writer = ledger.Writer(path, RUN, "test")
    assert path.stat().st_size == ledger.CHUNK
    for size in (10, ledger.CHUNK, 3 * ledger.CHUNK):
        writer.append("meta", values="x" * size)
    assert [record["k"] for record in ledger.read(path, RUN).records] == ["open", *["meta"] * 3]
    writer.close()
    read = ledger.read(path, RUN)
    assert (read.damage, read.closed) == ([], True)
    assert path.read_bytes().endswith(b"}\n")


def test_threads_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.ledger"
    writer = ledger.Writer(path, RUN, "test")

    def write() -> None:
        for _ in range(500):
            writer.append("attempt", id="x" * 200)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = ledger.read(path, RUN)
    assert (read.damage, len(read.records)) == ([], 4001)
    assert path.stat().st_size > ledger.CHUNK


def test_kill_9_keeps_every_record_that_was_reported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from drill import ledger\n"
        f"w = ledger.Writer(Path({str(tmp_path / 'p.ledger')!r}), {RUN!r}, 'child')\n"
        "while True: print(w.append('attempt'), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        reported = 0
        while reported < 6000:  # more than one chunk holds
            reported = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        reported = max([reported, *map(int, child.stdout.read().split())])
    read = ledger.read(tmp_path / "p.ledger", RUN)
    assert not read.damage
    assert not read.closed
    assert len(read.records) >= reported


def test_one_flush_serves_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ledger.Writer(tmp_path / "p.ledger", RUN, "test")
    flushes = 0
    entered, release = threading.Event(), threading.Event()

    def flush(_file: int) -> None:
        nonlocal flushes
        flushes += 1
        entered.set()
        release.wait(10)

    monkeypatch.setattr(os, "fdatasync", flush)
    first = threading.Thread(target=writer.commit, args=[writer.append("attempt")])
    first.start()
    entered.wait(10)
    rest = [threading.Thread(target=writer.commit, args=[writer.append("attempt")]) for _ in range(10)]
    for thread in rest:
        thread.start()
    release.set()
    for thread in [first, *rest]:
        thread.join(10)
    assert flushes == 2


def test_a_full_disk_is_an_error_and_the_file_damaged(tmp_path: Path) -> None:
    path = tmp_path / "p.ledger"
    writer = ledger.Writer(path, RUN, "test")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ledger.CHUNK, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            writer.append("meta", values="x" * ledger.CHUNK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "2 records were written, 1 are there" in ledger.read(path, RUN).damage[0]
    writer.append("attempt", id="a")  # there is room again
    assert ledger.read(path, RUN).damage


def test_a_flush_covers_the_files_of_killed_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.Writer(tmp_path / "killed.ledger", RUN, "test")
    (tmp_path / "p0.log").touch()
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(Path(f"/proc/self/fd/{file}").readlink().name))
    ledger.flush(tmp_path)
    assert sorted(flushed) == ["killed.head", "killed.ledger"]

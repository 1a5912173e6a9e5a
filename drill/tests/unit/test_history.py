"""From files to a history, and from a damaged file to an inconclusive verdict."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drill import ledger
from drill.judge import checker
from drill.judge.history import History, build
from drill.run import drain

RUN = "run1"


def record_run(folder: Path, tasks: int = 10, *, end: bool = True) -> None:
    """Write a run in which everything went well, up to its end or to the moment before it."""
    drill = ledger.Writer(folder / "drill.ledger", RUN, "drill")
    drill.append("writer", name="publisher")
    publisher = ledger.Writer(folder / "publisher.ledger", RUN, "publisher")
    worker = ledger.Writer(folder / "worker.ledger", RUN, "worker")
    for number in range(tasks):
        name = f"t{number}"
        publisher.append("attempt", id=name, task="short", path="single")
        publisher.append("outcome", id=name, result="acknowledged")
        worker.append("start", id=name, retries=0)
        worker.append("end", id=name, retries=0, final=True)
        worker.append("stored", id=name)
        drill.append("result", id=name, state="SUCCESS")
    publisher.close()
    if end:
        drill.append("drained", ok=True, why=[])
        drill.close()


def load(folder: Path) -> History:
    return build(ledger.read_all(folder, RUN), RUN)


def test_a_whole_ledger_passes(tmp_path: Path) -> None:
    record_run(tmp_path)
    assert checker.judge(load(tmp_path)).word == "pass"


@settings(deadline=None)  # the machine may be busy
@given(book=st.sampled_from(["publisher", "worker", "drill"]), line=st.integers(0, 200))
def test_a_missing_record_is_never_a_pass(book: str, line: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_run(folder)
        path = folder / f"{book}.ledger"
        lines = path.read_bytes().rstrip(b"\0").splitlines(keepends=True)  # the worker's file ends in reserved bytes
        del lines[line % len(lines)]
        path.write_bytes(b"".join(lines))
        assert checker.judge(load(folder)).word == "inconclusive"


@pytest.mark.parametrize("book", ["publisher", "worker", "drill"])
def test_a_missing_file_is_never_a_pass(tmp_path: Path, book: str) -> None:
    record_run(tmp_path)
    for suffix in (".ledger", ".head"):
        (tmp_path / f"{book}{suffix}").unlink()
    assert checker.judge(load(tmp_path)).word != "pass"


@settings(deadline=None)  # the machine may be busy
@given(reached=st.tuples(*[st.integers(0, 40)] * 3), head=st.booleans())
def test_a_run_that_went_down_with_its_machine_is_never_a_pass(reached: tuple[int, int, int], head: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_run(folder, end=False)
        for book, lines in zip(("publisher", "worker", "drill"), reached, strict=True):
            path = folder / f"{book}.ledger"
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
            if not head:  # nobody flushes it
                path.with_suffix(".head").write_bytes(bytes(8))
        assert checker.judge(load(folder)).word == "inconclusive"


def test_a_killed_publisher_leaves_unknown_outcomes(tmp_path: Path) -> None:
    record_run(tmp_path)
    killed = ledger.Writer(tmp_path / "killed.ledger", RUN, "publisher")
    killed.append("attempt", id="k1", task="short", path="single")
    verdict = checker.judge(load(tmp_path))
    assert verdict.word == "pass"
    assert verdict.counts.unknown == {"k1"}


def test_a_publisher_that_ended_in_order_answers_all(tmp_path: Path) -> None:
    record_run(tmp_path)
    silent = ledger.Writer(tmp_path / "silent.ledger", RUN, "publisher")
    silent.append("attempt", id="s1", task="short", path="single")
    silent.close()
    assert checker.judge(load(tmp_path)).word == "inconclusive"


def test_a_run_cut_short_and_repeated_counts_as_extra_not_as_duplicated(tmp_path: Path) -> None:
    record_run(tmp_path)
    other = ledger.Writer(tmp_path / "worker2.ledger", RUN, "worker")
    other.append("start", id="t1", retries=0)
    counts = checker.count(load(tmp_path))
    assert (counts.extra, counts.duplicated) == ({"t1": 1}, frozenset())


def test_a_task_whose_retry_never_came_is_lost(tmp_path: Path) -> None:
    record_run(tmp_path)
    publisher = ledger.Writer(tmp_path / "publisher2.ledger", RUN, "publisher")
    publisher.append("attempt", id="r1", task="retrying", path="single")
    publisher.append("outcome", id="r1", result="acknowledged")
    worker = ledger.Writer(tmp_path / "worker2.ledger", RUN, "worker")
    worker.append("start", id="r1", retries=0)
    worker.append("end", id="r1", retries=0, final=False)
    verdict = checker.judge(load(tmp_path))
    assert verdict.word == "fail"
    assert verdict.counts.lost == {"r1"}


def test_a_chord_published_by_a_task_that_ran_twice_may_run_twice(tmp_path: Path) -> None:
    record_run(tmp_path)
    publisher = ledger.Writer(tmp_path / "publisher2.ledger", RUN, "publisher")
    worker = ledger.Writer(tmp_path / "worker2.ledger", RUN, "worker")
    for name, runs in {"f": 2, "f.h0": 3}.items():
        publisher.append("attempt", id=name, task="fan", path="single")
        publisher.append("outcome", id=name, result="acknowledged")
        for _ in range(runs):
            worker.append("start", id=name, retries=0)
            worker.append("end", id=name, retries=0, final=True)
    assert checker.count(load(tmp_path)).extra == {"f": 1, "f.h0": 1}


def test_unfinished_are_the_acknowledged_tasks_without_their_last_run(tmp_path: Path) -> None:
    record_run(tmp_path)
    publisher = ledger.Writer(tmp_path / "publisher2.ledger", RUN, "publisher")
    for name, result, poison in (
        ("open", "acknowledged", False),
        ("bad", "acknowledged", True),
        ("no", "error", False),
    ):
        publisher.append("attempt", id=name, task="short", path="single", poison=poison)
        publisher.append("outcome", id=name, result=result)
    assert drain.unfinished(load(tmp_path)) == {"open"}

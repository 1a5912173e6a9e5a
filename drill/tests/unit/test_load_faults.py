"""More load than usual, and clients that die: proven by what happened, over by themselves."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from drill.faults import REGISTRY, load
from drill.ledger import Writer
from drill.load.pool import Pool
from drill.load.publisher import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RNG = random.Random(1)  # noqa: S311 - repeatable, not secret
COUNTS = """
import json, os, sys, threading, time
rate = json.loads(sys.argv[1])["rate"]
def report():
    for step in range(1, 10_000):
        print(json.dumps({"acknowledged": int(rate * step), "failed": 0}), flush=True)
        time.sleep(0.05)
threading.Thread(target=report, daemon=True).start()
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def publishers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """Return a pool of one publisher that counts and publishes nothing."""
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return popen([sys.executable, "-c", COUNTS, command[-1]], **options)

    monkeypatch.setattr("drill.load.pool.subprocess.Popen", start)
    book = Writer(tmp_path / "drill.ledger", "run", "drill")
    found = Pool(book, tmp_path, {})
    found.start(Job(str(tmp_path), "run", "p0", 1, 2.0, 4, {}, {}))
    yield found
    assert found.stop(10) == []
    book.close()


def until(condition: Callable[[], Any]) -> Any:
    """Return the first true answer, or the last one after ten seconds."""
    deadline = time.monotonic() + 10
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def test_a_burst_comes_beside_the_usual_load_and_ends_by_itself(
    publishers: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "SECONDS", 0.5)
    stack: Any = SimpleNamespace(publishers=publishers)
    plan = REGISTRY["publish-burst"].plan(stack, RNG)
    plan.apply()
    extra = set(publishers.names()) - {"p0"}
    assert len(extra) == 1
    assert not plan.healed(), "it goes on"
    assert publishers.rate() == 2.0 * load.TIMES
    assert until(plan.healed) == f"{extra.pop()} ended"
    assert publishers.names() == ["p0"]
    assert publishers.rate() == 2.0


@pytest.mark.parametrize(("acknowledged", "said"), [(499, ""), (500, "5.0 times")])
def test_a_burst_is_proven_by_what_was_acknowledged(acknowledged: int, said: str) -> None:
    stack: Any = SimpleNamespace(
        publishers=SimpleNamespace(names=lambda: ["p0"], rate=lambda: 10.0, acknowledged=lambda _: acknowledged)
    )
    proof = REGISTRY["publish-burst"].plan(stack, RNG).proof()
    assert proof.startswith(said)
    assert bool(proof) is bool(said)


def test_a_burst_that_the_end_of_the_run_meets_is_stopped_with_the_others(publishers: Pool) -> None:
    publishers.burst(9, 60)
    assert len(publishers.names()) == 2
    assert publishers.stop(10) == []
    assert publishers.names() == []


class FakeClient:
    """A connection that notes how it ends."""

    connection_errors = (OSError,)
    transport_options: dict[str, Any]
    default_channel = None

    def __init__(self, ends: list[str], error: OSError | None) -> None:
        self._ends, self._error = ends, error
        sock = SimpleNamespace(close=lambda: ends.append("died"))
        self.connection = SimpleNamespace(transport=SimpleNamespace(sock=sock))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self) -> None:
        time.sleep(0.001)
        if self._error:
            raise self._error

    def collect(self) -> None:
        self._ends.append("collected")


@pytest.mark.parametrize("error", [None, ConnectionRefusedError()], ids=["open", "refused"])
def test_a_churn_is_proven_by_connections_that_were_open(
    error: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "SECONDS", 0.5)
    monkeypatch.setattr(load, "DIED", 20)
    ends: list[str] = []
    names = ["app", load.NAME]
    stack: Any = SimpleNamespace(
        app=SimpleNamespace(connection_for_write=lambda: FakeClient(ends, error)),
        tier=lambda _: [SimpleNamespace(name="rabbit1")],
        management=lambda _: [{"user_provided_name": name} for name in names],
    )
    plan = REGISTRY["connection-churn"].plan(stack, RNG)
    before = threading.active_count()
    plan.apply()
    assert not plan.proof(), "it goes on"
    assert until(lambda: threading.active_count() == before), "it ends"
    assert bool(plan.proof()) is not bool(error)
    assert ends.count("died") == ends.count("collected")
    assert not plan.healed(), "the brokers still keep one"
    names.remove(load.NAME)
    assert plan.healed()

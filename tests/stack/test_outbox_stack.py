"""The outbox between a real PostgreSQL and the real cluster: killed relays, a stopped cluster, chords, delays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from outbox_contract import clear, waiting
from sqlalchemy import create_engine, func, select

from holdfast.outbox.table import outbox
from holdfast.publisher.policy import Policy

from .postgres import scratch_schema
from .stack import DEADLINE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from .hook import Hook
    from .rig import Rig
    from .stack import Stack

pytestmark = pytest.mark.stack

BROKERS = ("rabbit1", "rabbit2", "rabbit3")
LEASE = 10  # seconds: a pass that takes longer is repeated by another relay
BATCH = 10
PUBLISH = Policy().deadline  # seconds that a publish would wait

ENQUEUE = """
import os
from celery import chord
from sqlalchemy import create_engine
from holdfast import outbox
engine = create_engine(os.environ["HOLDFAST_OUTBOX_URL"])
def enqueue(*signatures):
    with engine.begin() as connection:
        return [outbox.enqueue(connection, signature) for signature in signatures]
"""


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    """A schema of its own."""
    with scratch_schema(stack.settings) as engine:
        clear(engine)
        yield engine


def url_of(engine: Engine) -> str:
    """The URL with its password."""
    return engine.url.render_as_string(hide_password=False)


def enqueue(rig: Rig, engine: Engine, signatures: str) -> list[str]:
    """Enqueue signatures of the scratch application, given as Python code; return the ids."""
    code = f"{ENQUEUE}\nprint(*enqueue({signatures}))"
    return rig.call(code, HOLDFAST_OUTBOX_URL=url_of(engine)).split()


@contextmanager
def relay(rig: Rig, engine: Engine) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``holdfast relay`` for the scratch application until the end of the block."""
    command = [sys.executable, "-c", "from holdfast.cli import main; main()", "relay", "-A", "scratch"]
    options = ["--metrics", "127.0.0.1:0", "--lease", str(LEASE), "--batch", str(BATCH), "--poll", "0.1"]
    with (rig.folder / "relay.log").open("a") as log:
        child = subprocess.Popen(
            [*command, *options], env=rig.environment(HOLDFAST_OUTBOX_URL=url_of(engine)), stdout=log, stderr=log
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def wait_empty(rig: Rig, engine: Engine) -> None:
    """Wait until the outbox is empty; when it does not become so, show what the relays said."""
    try:
        wait_until(lambda: waiting(engine) == 0, "the outbox is empty")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{(rig.folder / 'relay.log').read_text()[-4000:]}") from None


def copies(rig: Rig) -> Counter[str]:
    """Count the messages in the scratch queue by their task's id."""
    return Counter(message["properties"]["correlation_id"] for message in rig.get(rig.queue, 1000))


def test_relays_that_are_killed_at_any_moment_lose_nothing(rig: Rig, engine: Engine) -> None:
    ids = enqueue(rig, engine, "*[echo.s(n) for n in range(300)]")
    kills = 4

    def at_most(rows: int) -> bool:
        return waiting(engine) <= rows

    for kill in range(1, kills + 1):
        with relay(rig, engine) as victim, relay(rig, engine):
            wait_until(partial(at_most, 300 - 50 * kill), "rows are published")
            victim.kill()
    with relay(rig, engine):
        wait_empty(rig, engine)
    published = copies(rig)
    assert set(published) == set(ids)
    assert published.total() <= len(ids) + 2 * kills * BATCH, "only what a killed relay had claimed comes twice"


def test_sigterm_finishes_the_pass_and_leaves_no_claim(rig: Rig, engine: Engine) -> None:
    ids = enqueue(rig, engine, "*[echo.s(n) for n in range(200)]")
    with relay(rig, engine) as child:
        wait_until(lambda: waiting(engine) < 200, "rows are published")
        child.send_signal(signal.SIGTERM)
        assert child.wait(DEADLINE) == 0
    left = waiting(engine)
    with engine.connect() as connection:
        claimed = connection.execute(select(func.count(outbox.c.not_before))).scalar_one()
    assert claimed == 0
    assert len(copies(rig)) == len(ids) - left, "each row either published or still there"


def test_a_row_that_the_broker_refuses_blocks_no_other(rig: Rig, engine: Engine) -> None:
    enqueue(rig, engine, "echo.s(1).set(exchange='no-such-exchange', routing_key='x'), echo.s(2), echo.s(3)")

    def refusal() -> str | None:
        with engine.connect() as connection:
            return connection.execute(select(outbox.c.error).where(outbox.c.refusals > 0)).scalar_one_or_none()

    with relay(rig, engine):
        assert "no-such-exchange" in (wait_until(refusal, "the reason is kept") or "")
        wait_until(lambda: waiting(engine) == 1, "the others are gone")
    assert len(copies(rig)) == 2


def test_a_chord_that_is_published_twice_ends_all_the_same(rig: Rig, engine: Engine) -> None:
    enqueue(rig, engine, "chord([echo.s(1), echo.s(2), echo.s(3)], total.s())")
    with engine.connect() as connection:
        row = connection.execute(select(outbox)).mappings().one()
    with relay(rig, engine):
        wait_empty(rig, engine)
        with engine.begin() as connection:  # what a relay that dies before the deletion leaves
            connection.execute(outbox.insert().values(**{**row, "not_before": None}))
        wait_empty(rig, engine)
    published = copies(rig)
    assert len(published) == 3
    assert min(published.values()) >= 2
    with rig.worker():
        wait_until(lambda: rig.runs("total"), "the chord's body")
        rig.drained()
    assert set(rig.runs("total")) == {"3"}, "three results, not six"


def test_a_chain_runs_to_its_end(rig: Rig, engine: Engine) -> None:
    enqueue(rig, engine, "echo.s([1, 2]) | total.s() | echo.s()")
    with relay(rig, engine), rig.worker():
        wait_until(lambda: rig.runs("echo")["3"], "the last task")


def test_a_countdown_is_not_prolonged_by_the_time_in_the_outbox(rig: Rig, engine: Engine) -> None:
    with rig.worker():
        begin = time.monotonic()
        enqueue(rig, engine, "echo.s('late').set(countdown=25), echo.s('over').set(countdown=1)")
        outage = time.monotonic() + 12
        wait_until(lambda: time.monotonic() > outage, "the outage is over")
        with relay(rig, engine):
            wait_empty(rig, engine)
        published = time.monotonic()
        wait_until(lambda: rig.runs("echo")["over"], "the delay that was over")
        wait_until(lambda: rig.runs("echo")["late"], "the delayed task")
    assert time.monotonic() - begin > 25
    assert time.monotonic() - published < 22, "25 s from the enqueueing, not from the publish"


def test_a_stopped_cluster_delays_and_loses_nothing(stack: Stack, hook: Hook, rig: Rig, engine: Engine) -> None:
    real = create_engine(stack.settings["WEBHOOKS_DATABASE_URL"])
    try:
        stack.compose("stop", *BROKERS)
        begin = time.monotonic()
        hook.send_many(30)
        for queue in ("default", "critical"):
            hook.send("--queue", queue)
        assert time.monotonic() - begin < 3 * PUBLISH, "nothing waits for the cluster"
        stored = rig.call(
            f"{ENQUEUE}\napp.conf.holdfast_publish_fallback = outbox.fallback(engine.begin)\n"
            "app.conf.holdfast_publish_deadline = 3\nprint(echo.delay('stored').id)",
            HOLDFAST_OUTBOX_URL=url_of(engine),
        )
        assert waiting(engine) == 1

        def tried() -> int:
            with real.connect() as connection:
                return connection.execute(select(func.count()).where(outbox.c.attempts > 0)).scalar_one()

        assert wait_until(lambda: tried() >= 3, "the relay tried in vain")
        stack.wait_healthy("relay")
        with relay(rig, engine):
            stack.compose("start", *BROKERS)
            stack.wait_healthy(*BROKERS)
            wait_empty(rig, engine)
    finally:
        stack.compose("start", *BROKERS)
        stack.wait_healthy(*BROKERS)
    counts = hook.wait_delivered(32, 240)
    assert counts["unique"] == 32
    report = wait_until(lambda: json.loads(stack.webhooks("report", "--json")), "the chord's report")
    assert (report["total"], report["delivered"]) == (30, 30)
    assert set(copies(rig)) == {stored}
    real.dispose()

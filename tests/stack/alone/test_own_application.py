"""``holdfast.install`` in an application with brokers of its own and no ``HOLDFAST_*`` variable, in every pool."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from kombu import Connection, Exchange, Queue

from ...tutorials import environment
from ..rig import APPS
from ..servers import LOGIN, container, free_ports, image, wait_for_broker
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides


POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")
CALLS = """
from celery import chain, chord
from own_app import add, app, following, insist, total
results = [
    add.delay(1, 2),
    app.send_task("own_app.add", (3, 4)),
    following.delay({"number": 1}),
    insist.delay(),
    add.apply_async((5, 6), countdown=1),
    chain(add.s(1, 1), add.si(2, 2)).delay(),
    chord([add.s(1, 1), add.s(2, 2)], total.s()).delay(),
]
print([result.get(timeout=90) for result in results])
"""
EXPECTED = "[[3, True], [7, True], {'number': 2}, 2, [11, True], [4, True], 6]"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A broker on which nobody has declared anything, and a Redis."""
    broker, redis = free_ports(2)
    conf = tmp_path_factory.mktemp("own") / "rabbitmq.conf"
    conf.write_text(f"default_user = {LOGIN}\ndefault_pass = {LOGIN}\nloopback_users = none\n")
    for path in (conf.parent, *list(conf.parents)[1:3]):
        path.chmod(0o755)
    conf.chmod(0o644)
    mount = ("--volume", f"{conf}:/etc/rabbitmq/rabbitmq.conf:ro")
    with (
        container("--publish", f"127.0.0.1:{broker}:5672", *mount, image("rabbitmq")),
        container("--publish", f"127.0.0.1:{redis}:6379", image("redis"), "redis-server", "--protected-mode", "no"),
    ):
        url = f"amqp://{LOGIN}:{LOGIN}@127.0.0.1:{broker}//"
        wait_for_broker(url)
        yield {"OWN_BROKER_URL": url, "OWN_RESULT_URL": f"redis://127.0.0.1:{redis}/0"}


@contextmanager
def worker(folder: Path, own: dict[str, str], *arguments: str) -> Iterator[Path]:
    """Run a worker of the application until the end of the block and give its log."""
    log = folder / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "own_app", "worker", "--loglevel", "info", *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=APPS, env=environment(own), stdout=output, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield log
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()


def call(own: dict[str, str], code: str) -> str:
    """Run code of a client, which publishes and waits, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=APPS, env=environment(own), text=True, capture_output=True, check=False, timeout=400,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else done.stderr


def test_a_task_is_accepted_before_any_worker_has_declared_its_queue(own: dict[str, str], tmp_path: Path) -> None:
    publish = "from own_app import add; print(add.apply_async((1, 1), countdown=1).id, add.delay(2, 2).id)"
    ids = call(own, publish).split()
    assert len(ids) == 2, ids
    with worker(tmp_path, own, "--concurrency", "1"):
        read = f"from own_app import app; print([app.AsyncResult(i).get(timeout=90) for i in {ids}])"
        assert call(own, read) == "[[2, True], [4, True]]"


@pytest.mark.parametrize("pool", POOLS)
def test_every_kind_of_call_works_in_every_pool(pool: str, own: dict[str, str], tmp_path: Path) -> None:
    with worker(tmp_path, own, "--pool", pool, "--concurrency", "4") as log:
        assert call(own, CALLS) == EXPECTED, log.read_text()[-3000:]


def test_a_classic_queue_of_before_is_not_touched_and_the_log_names_it(own: dict[str, str], tmp_path: Path) -> None:
    queue = Queue("before", Exchange("before"), "before")
    with Connection(own["OWN_BROKER_URL"]) as connection:
        queue(connection.default_channel).declare()
        own = own | {"OWN_QUEUE": "before"}
        assert call(own, "from own_app import add; print(add.delay(1, 1).state)") == "PENDING"
        with worker(tmp_path, own) as log:
            wait_until(lambda: "PRECONDITION_FAILED" in log.read_text(), "the broker refuses the declaration", 180)
        assert re.search(
            r"PRECONDITION_FAILED - inequivalent arg '[\w-]+' for (queue|exchange) 'before'", log.read_text()
        )
        assert connection.channel().queue_declare("before", passive=True).message_count == 1


def test_queues_that_lose_tasks_are_refused_at_start_by_name(own: dict[str, str], tmp_path: Path) -> None:
    with worker(tmp_path, own | {"OWN_TOPOLOGY": "classic"}) as log:
        wait_until(lambda: "To start anyway" in log.read_text(), "the worker refuses", 120)
    said = log.read_text()
    assert "HF209-quorum-queues: not quorum queues: celery" in said
    assert "HF210-direct-exchange: on a direct exchange: celery" in said

"""An application of stock Celery moves from Redis to RabbitMQ under load: everything that was accepted is executed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import chord
from redis import Redis

from holdfast.migrate.move import HELD_BY_WORKERS

from ...tutorials import environment
from ..moving_app import PREFIX, QUEUES, create
from ..rig import celery
from ..servers import LOGIN, container, free_ports, image, wait_for_broker
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

HERE = Path(__file__).parents[1]
BULK = 4000  # tasks that only wait: long enough for a run to be killed in the middle
COUNTDOWN = 60  # seconds; longer than everything up to the move


@dataclass
class Move:
    """Both brokers, and what was accepted and executed."""

    redis: int
    rabbit: int
    folder: Path
    accepted: list[str] = field(default_factory=list)
    due: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.old_url = f"redis://127.0.0.1:{self.redis}/0"
        self.new_url = f"amqp://{LOGIN}:{LOGIN}@127.0.0.1:{self.rabbit}//"
        self.results = f"redis://127.0.0.1:{self.redis}/1"
        self.old, self.new = create(self.old_url, self.results), create(self.new_url, self.results)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def environment(self, broker: str) -> dict[str, str]:
        own = {"MOVING_BROKER_URL": broker, "MOVING_RESULT_URL": self.results, "MOVING_LEDGER": str(self.ledger)}
        return environment(own)

    @contextmanager
    def worker(self, broker: str, queues: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker, with its children in a process group of their own."""
        options = ("worker", "--concurrency", "2", "-Q", queues, "-n", f"{name}@%h", "--loglevel", "info")
        path = {"PYTHONPATH": str(HERE)}
        with celery("moving_app", *options, folder=self.folder, environment=self.environment(broker) | path) as process:
            process.wait_for(" ready.")
            yield process.child

    def executed(self) -> Counter[str]:
        """Count the executions of each task."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return Counter(line.split()[0] for line in lines)

    def missing(self) -> set[str]:
        """Return what was accepted and not executed."""
        return set(self.accepted) - set(self.executed())

    def migrate(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command in the environment of the new application."""
        command = ["holdfast", "migrate-broker", "-A", "moving_app", "--from", self.old_url]
        command += ["--from-options", json.dumps({"global_keyprefix": PREFIX}), *arguments]
        return subprocess.Popen(
            command, cwd=HERE, env=self.environment(self.new_url), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def migrated(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run the command to its end; return its exit code and what it says as JSON."""
        process = self.migrate("--json", *arguments)
        out, err = process.communicate(timeout=240)
        print(*arguments, process.returncode, out, err)
        assert out, err
        return process.returncode, json.loads(out)

    def send(self, app: Celery[Any], number: int, **options: Any) -> None:
        """Publish a task and write down that it was accepted."""
        begun = time.time()
        taken = app.send_task("work", (number, options.pop("seconds", 0.0)), **options)
        self.accepted.append(str(taken.id))
        if "countdown" in options:
            self.due[str(taken.id)] = begun + options["countdown"]

    def left(self) -> dict[str, int]:
        """Return the lengths of what lies in the old broker, asked from Redis itself."""
        with Redis(port=self.redis, decode_responses=True) as client:
            keys = [key for key in client.scan_iter(f"{PREFIX}*", _type="list") if not key.endswith(".pidbox")]
            found: dict[str, Any] = {key: client.llen(key) for key in keys}
            return found | ({"unacked": n} if (n := client.hlen(f"{PREFIX}unacked")) else {})


@pytest.fixture
def move(tmp_path: Path) -> Iterator[Move]:
    """A Redis and a RabbitMQ of the test's own."""
    redis, rabbit = free_ports(2)
    conf = tmp_path / "rabbitmq.conf"
    conf.write_text(f"default_user = {LOGIN}\ndefault_pass = {LOGIN}\nloopback_users = none\n")
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    conf.chmod(0o644)
    mount = ("--volume", f"{conf}:/etc/rabbitmq/rabbitmq.conf:ro")
    with (
        container("--publish", f"127.0.0.1:{rabbit}:5672", *mount, image("rabbitmq")),
        container("--publish", f"127.0.0.1:{redis}:6379", image("redis"), "redis-server", "--protected-mode", "no"),
    ):
        move = Move(redis, rabbit, tmp_path)
        wait_for_broker(move.new_url)
        yield move


def produce(move: Move, app: Celery[Any], count: int) -> None:
    """Publish one task after the other, to two queues and with three priorities."""
    for number in range(count):
        move.send(app, number, seconds=0.05, queue=("celery", "mail")[number % 2], priority=(0, 3, 9)[number % 3])
        time.sleep(0.01)


def delay(move: Move, count: int) -> None:
    """Publish countdowns, until the old workers hold all of them in their memory."""
    for number in range(count):
        move.send(move.old, number, queue="mail", countdown=COUNTDOWN)
    wait_until(lambda: not any("mail" in key for key in move.left()), "old workers hold the countdowns", 90)


def load(move: Move) -> Any:
    """Fill the old broker with everything that an application may have there; return the result of a chord."""
    for number in range(BULK):
        move.send(move.old, number, queue="bulk", priority=5 * (number % 2))
    delay(move, 30)
    work, total = move.old.signature("work"), move.old.signature("total")
    parts = [work.clone((number, 3)).set(queue="celery") for number in range(12)]
    gathered = chord(parts, total.set(queue="mail"), app=move.old).delay()
    produce(move, move.old, 100)
    return gathered


def move_twice(move: Move) -> int:
    """Kill a run in the middle and run it again while an old worker is at work; return how many may run twice."""
    with Redis(port=move.redis) as client:
        killed = move.migrate()
        wait_until(lambda: client.llen(f"{PREFIX}bulk") < BULK / 2, "the run has begun with them", 120)  # one priority
        killed.kill()
        killed.communicate()
    assert any("bulk" in key for key in move.left()), "the run had ended before it was killed"
    refused = move.migrate("--workers-stopped")
    assert "1 clients wait for tasks" in refused.communicate()[1]
    assert refused.returncode == 1
    code, said = move.migrated()
    assert (code, said["result"]["refused"]) == (3, 0), said
    return int(said["result"]["resumed"])


def move_the_rest(move: Move) -> None:
    """Take what the stopped and the killed worker held; then nothing is left, and another run has nothing to do."""
    code, said = move.migrated("--workers-stopped")
    assert (code, said["left"]["total"]) == (0, 0), said
    assert said["result"]["moved"].keys() >= {HELD_BY_WORKERS, "mail"}, "of the killed worker, of the stopped one"
    assert move.left() == {}
    code, said = move.migrated("--workers-stopped")
    assert (code, said["result"]["moved"]) == (0, {})


@pytest.mark.parametrize(
    "tool", [pytest.param(True, id="moved"), pytest.param(False, id="without-the-tool", marks=pytest.mark.long)]
)
def test_nothing_that_was_accepted_is_lost(move: Move, tool: bool) -> None:
    with ExitStack() as stack:
        old = [stack.enter_context(move.worker(move.old_url, "celery,mail", name)) for name in ("old1", "old2")]
        stack.enter_context(move.worker(move.new_url, ",".join(QUEUES), "new"))
        gathered = load(move)
        flow = threading.Thread(target=produce, args=(move, move.new, 300))  # the producers are switched
        flow.start()
        os.killpg(old[0].pid, signal.SIGKILL)  # in the middle of its tasks, with countdowns in its memory
        resumed = move_twice(move) if tool else 0
        delay(move, 10)
        old[1].send_signal(signal.SIGTERM)
        old[1].wait(90)
        flow.join()
        if tool:
            move_the_rest(move)
            wait_until(lambda: not move.missing(), "everything accepted is executed", 300)
            assert gathered.get(timeout=60) == sum(range(12))
        else:
            new = set(move.accepted[-310:]) - move.due.keys()  # what was delayed meanwhile is on the old broker
            assert len(new) == 300
            wait_until(lambda: not new & move.missing(), "what the new broker has is executed", 180)

    runs, lost = move.executed(), len(move.missing())
    extra = sum(runs.values()) - len(runs)
    print(f"accepted {len(move.accepted)}, lost {lost}, executed again {extra}, resumed {resumed}, left {move.left()}")
    if not tool:
        assert lost > BULK
        return
    assert lost == 0
    assert extra <= resumed + 4  # and what the killed worker's two processes had begun
    at = {task: float(when) for task, when in (line.split() for line in move.ledger.read_text().splitlines())}
    assert all(at[task] >= due - 0.5 for task, due in move.due.items()), "a countdown ended early"

"""Classic queues become quorum queues while the application runs: everything that was accepted is executed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import OperationalError

from holdfast.migrate.carry import WINDOW

from ...tutorials import environment
from ..queues_app import NAMES, create
from ..rig import celery
from ..servers import LOGIN, container, free_ports, image, wait_for_broker
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

HERE = Path(__file__).parents[1]
BULK = 8000  # tasks that only wait: long enough for three runs to be ended in the middle
COUNTDOWN = 90  # seconds; longer than everything up to the end of the old worker
HANDS = 32  # tasks that both workers hold, the prefetched ones too, when their connections end
# What must not be: the old queue forgets a message when it hands it out
MUTANT = """
import sys
from holdfast.cli import main
from holdfast.migrate.queue_move import Source
from kombu.transport.pyamqp import Channel
consume = Channel.basic_consume
Channel.basic_consume = lambda *args, **options: consume(*args, **options, no_ack=True)
Source.done = lambda *_: None
sys.argv[0] = "holdfast"
main()
"""


@dataclass
class Move:
    """A broker of the test's own, and what was accepted and executed."""

    port: int
    management: int
    id: str
    folder: Path = Path()
    accepted: list[str] = field(default_factory=list)
    due: dict[str, float] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"amqp://{LOGIN}:{LOGIN}@127.0.0.1:{self.port}//"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def environment(self, kind: str) -> dict[str, str]:
        page = f"http://{LOGIN}:{LOGIN}@127.0.0.1:{self.management}"
        own = {"MOVING_BROKER_URL": self.url, "MOVING_KIND": kind, "MOVING_LEDGER": str(self.ledger)}
        return environment(own | {"HOLDFAST_APP": "queues_app", "HOLDFAST_MANAGEMENT_URL": page})

    @contextmanager
    def worker(self, kind: str, queues: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker, with its children in a process group of their own."""
        options = ("worker", "--concurrency", "2", "-Q", queues, "-n", f"{kind}@%h", "--loglevel", "info")
        path = {"PYTHONPATH": str(HERE)}
        with celery("queues_app", *options, folder=self.folder, environment=self.environment(kind) | path) as process:
            process.wait_for(" ready.")
            yield process.child

    def command(self, *arguments: str, start: tuple[str, ...] = ("holdfast",)) -> subprocess.Popen[str]:
        """Start the command in the environment of the application with the new queues."""
        return subprocess.Popen(
            [*start, "migrate-queues", *arguments], cwd=HERE, env=self.environment("new"), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def ended(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run the command to its end; return its exit code, what it says as JSON, and its errors."""
        process = self.command("--json", *arguments)
        out, err = process.communicate(timeout=240)
        print(*arguments, process.returncode, out, err)
        return process.returncode, json.loads(out) if out else {}, err

    def ready(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        with Connection(self.url) as connection:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)

    def below(self, queue: str, number: int) -> None:
        """Return as soon as fewer messages wait in a queue."""
        end = time.monotonic() + 120
        with Connection(self.url) as connection:
            channel: Any = connection.default_channel
            while channel.queue_declare(queue, passive=True).message_count >= number:
                assert time.monotonic() < end, f"{queue} does not get shorter"

    def taken(self, queue: str) -> list[Any]:
        """Take all messages out of a queue, in its order."""
        with Connection(self.url) as connection:
            channel: Any = connection.default_channel
            channel.auto_decode = False
            found: list[Any] = []
            count = channel.queue_declare(queue, passive=True).message_count
            channel.basic_consume(queue, no_ack=True, callback=found.append)
            while len(found) < count:
                connection.drain_events(timeout=60)
            return found

    def send(self, app: Celery[Any], queue: str, **options: Any) -> bool:
        """Publish a task; write down that it was accepted if the broker has confirmed it."""
        begun = time.time()
        try:
            sent = app.send_task("work", (options.pop("seconds", 0.0),), queue=queue, **options)
        except OperationalError:
            return False  # nobody was told that this one is accepted
        self.accepted.append(str(sent.id))
        if "countdown" in options:
            self.due[str(sent.id)] = begun + options["countdown"]
        return True

    def executed(self) -> Counter[str]:
        """Count the executions of each task."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return Counter(line.split()[0] for line in lines)

    def missing(self) -> set[str]:
        """Return what was accepted and not executed."""
        return set(self.accepted) - set(self.executed())

    def restart(self) -> None:
        """Restart the broker."""
        subprocess.run(["docker", "restart", "--timeout", "30", self.id], check=True, capture_output=True)
        wait_for_broker(self.url)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, str]]:
    """A RabbitMQ of the tests' own: its ports, its container."""
    port, management = free_ports(2)
    folder = tmp_path_factory.mktemp("queues")
    conf = folder / "rabbitmq.conf"
    conf.write_text(f"default_user = {LOGIN}\ndefault_pass = {LOGIN}\nloopback_users = none\n")
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)
    conf.chmod(0o644)
    ports = ("--publish", f"127.0.0.1:{port}:5672", "--publish", f"127.0.0.1:{management}:15672")
    mount = ("--volume", f"{conf}:/etc/rabbitmq/rabbitmq.conf:ro")
    with container(*ports, *mount, image("rabbitmq")) as found:
        wait_for_broker(f"amqp://{LOGIN}:{LOGIN}@127.0.0.1:{port}//")
        yield port, management, found


@pytest.fixture
def move(broker: tuple[int, int, str], tmp_path: Path) -> Iterator[Move]:
    """The broker without any queue."""
    move = Move(*broker, tmp_path)
    yield move
    with Connection(move.url) as connection:
        for name in (*NAMES, *NAMES.values()):
            connection.default_channel.queue_delete(name)


def filled(move: Move, number: int, queue: str = "bulk") -> list[str]:
    """Publish numbered messages with everything that a message can have; return their ids in order."""
    app, ids = create(move.url, "old"), [f"id-{one:06}" for one in range(number)]
    described: Any = app.amqp.queues[queue]
    with Connection(move.url) as connection:
        described(connection.default_channel).declare()
        producer = Producer(connection)
        for one in ids:
            producer.publish(
                f"[[{one!r}], {{}}, {{}}]".replace("'", '"'), content_type="application/json", exchange="",
                content_encoding="utf-8", routing_key=queue, correlation_id=one, reply_to="answers", priority=4,
                headers={"id": one, "task": "work", "tenant": {"number": 7, "parts": [1, "ä"]}}, expiration=3600,
                timestamp=1_700_000_000, app_id="shop", message_id=one, type="order",
            )  # fmt: skip
    wait_until(lambda: move.ready(queue) == number, "all of them wait", 60)
    return ids


def produce(move: Move, app: Celery[Any], queue: str, done: threading.Event) -> None:
    """Publish one task after the other until the event is set."""
    while not done.is_set():
        move.send(app, queue, seconds=0.02, priority=len(move.accepted) % 4)
        time.sleep(0.01)


def interrupted(move: Move) -> int:
    """End runs in the middle: two by SIGKILL, one by a restart of the broker; return how many."""
    for part in (0.85, 0.6):
        run = move.command("bulk=bulk.q")
        move.below("bulk", int(BULK * part))
        run.kill()
        run.communicate()
    assert move.ready("bulk"), "a run had ended before it was killed"
    run = move.command("bulk=bulk.q")
    move.below("bulk", int(BULK * 0.4))
    move.restart()
    _, err = run.communicate(timeout=240)
    assert (run.returncode, "nothing is lost" in err) == (1, True), err
    return 3


@pytest.mark.long
def test_nothing_that_was_accepted_is_lost(move: Move) -> None:
    old, new, quick = create(move.url, "old"), create(move.url, "new"), create(move.url, "old")
    quick.conf.broker_transport_options = {}  # does not wait for each confirm
    everything = [f"{name}={NAMES[name]}" for name in NAMES]
    done = threading.Event()
    with ExitStack() as stack:
        last = stack.enter_context(move.worker("old", "celery"))
        for _ in range(BULK):
            assert move.send(quick, "bulk")
        wait_until(lambda: move.ready("bulk") == BULK, "the broker has accepted the bulk", 60)
        stack.enter_context(move.worker("new", ",".join(NAMES.values())))
        flow = threading.Thread(target=produce, args=(move, old, "celery", done), daemon=True)
        flow.start()
        times = interrupted(move)
        for _ in range(10):
            assert move.send(old, "celery", countdown=COUNTDOWN)
        wait_until(lambda: move.ready("celery") == 0, "the old worker holds the countdowns", 60)
        code, said, _ = move.ended(*everything)
        assert (code, said["result"]["refused"]) == (3, 0), "the old worker holds the countdowns"
        assert said["left"]["unacked"]["celery"] >= len(move.due)
        done.set()  # the publishers are switched
        flow.join()
        done.clear()
        flow = threading.Thread(target=produce, args=(move, new, "tasks", done), daemon=True)
        flow.start()
        last.send_signal(signal.SIGTERM)
        last.wait(90)
        code, said, _ = move.ended(*everything)
        assert (code, said["left"]["total"]) == (0, 0)
        done.set()
        flow.join()
        wait_until(lambda: not move.missing(), "everything accepted is executed", 300)
    runs = move.executed()
    extra, lost = sum(runs.values()) - len(runs), len(move.missing())
    print(f"accepted {len(move.accepted)}, lost {lost}, executed again {extra}, runs ended early {times}")
    assert extra <= times * WINDOW + HANDS
    at = {task: float(when) for task, when in (line.split() for line in move.ledger.read_text().splitlines())}
    assert all(at[task] >= due - 0.5 for task, due in move.due.items()), "a countdown ended early"


@pytest.mark.parametrize("mutant", [False, True], ids=["moved", "acknowledged-too-early"])
def test_a_killed_run_loses_nothing(move: Move, mutant: bool) -> None:
    ids = filled(move, 4000)
    killed = move.command("bulk=bulk.q", start=(sys.executable, "-c", MUTANT) if mutant else ("holdfast",))
    move.below("bulk", 3500)
    killed.kill()
    killed.communicate()
    code, said, _ = move.ended("bulk=bulk.q")
    assert code == 0
    found = Counter(one.properties["correlation_id"] for one in move.taken("bulk.q"))
    lost, extra = set(ids) - set(found), found.total() - len(found)
    print(f"lost {len(lost)}, twice {extra}, resumed {said['result']['resumed']}")
    if mutant:
        assert lost, "the test does not see a loss"
        return
    assert not lost
    assert extra <= min(WINDOW, said["result"]["resumed"])


def test_messages_arrive_as_they_were_and_in_order(move: Move) -> None:
    ids = filled(move, 3000)
    with Connection(move.url) as connection:
        channel: Any = connection.default_channel
        channel.auto_decode = False
        first = channel.basic_get("bulk")
        channel.basic_reject(first.delivery_tag, requeue=True)
    code, said, _ = move.ended("bulk=bulk.q")
    assert (code, said["result"]["moved"], said["result"]["resumed"]) == (0, {"bulk": 3000}, 1)
    found = move.taken("bulk.q")
    assert [one.properties["correlation_id"] for one in found] == ids
    assert found[0].body == first.body
    assert found[0].properties == first.properties


def test_a_dry_run_changes_nothing(move: Move) -> None:
    filled(move, 20)
    code, said, _ = move.ended("--dry-run", "bulk=bulk.q")
    assert (code, said["left"]["waiting"], said["result"]["moved"]) == (3, {"bulk": 20}, {})
    assert said["plans"][0]["declares"]
    assert [one.partition("=")[0] for one in said["plans"][0]["differs"]] == ["max-priority"]
    assert move.ready("bulk") == 20
    with Connection(move.url) as connection, pytest.raises(connection.channel_errors):
        connection.default_channel.queue_declare("bulk.q", passive=True)


def test_what_cannot_be_moved_is_named(move: Move) -> None:
    filled(move, 20)
    with Connection(move.url) as connection:
        channel: Any = connection.default_channel
        Queue("brief", auto_delete=True)(channel).declare()
        Queue("bulk.q", Exchange("bulk"), "bulk", queue_arguments={"x-queue-type": "quorum"})(channel).declare()
        Queue("tasks")(channel).declare()  # not a quorum queue
        wrong = {
            "bulk=bulk": "two names",
            "bulk=bulk.q": "would run twice",
            "bulk=tasks": "is a queue of the type classic",
            "brief=bulk.q": "auto_delete",
            "none=bulk.q": "no queue none",
        }
        for arguments, reason in wrong.items():
            code, _, err = move.ended(arguments)
            assert code == 1, arguments
            assert reason in err, arguments
        channel.queue_delete("brief")
    assert move.ready("bulk") == 20


def test_a_full_queue_ends_the_run_and_the_rest_keeps_its_order(move: Move) -> None:
    ids = filled(move, 2000)
    with Connection(move.url) as connection:
        limits = {"x-queue-type": "quorum", "x-max-length": 300, "x-overflow": "reject-publish"}
        channel: Any = connection.default_channel
        Queue("bulk.q", Exchange("jobs", "topic"), "bulk.q", queue_arguments=limits)(channel).declare()
    code, said, _ = move.ended("bulk=bulk.q")
    assert (code, said["result"]["refused"]) == (1, 0)
    assert "queue full" in said["result"]["stopped"]
    rest, there = ([one.properties["correlation_id"] for one in move.taken(name)] for name in ("bulk", "bulk.q"))
    assert sorted(rest + there) == ids
    assert rest == sorted(rest)

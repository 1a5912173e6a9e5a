"""Scratch queues on the running cluster and workers of the test's own, as processes of this machine."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from holdfast import pulse
from holdfast.environment import split_urls

from .stack import DEADLINE, Stack, made, password, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from holdfast.pulse import Pulse

APPS = Path(__file__).parent / "apps"
VHOST = "holdfast"


@contextmanager
def celery(app: str, *arguments: str, folder: Path, environment: dict[str, str]) -> Iterator[Process]:
    """Run ``celery -A app`` with the arguments until the end of the block; after an error its log is shown."""
    log = folder / f"log-{uuid.uuid4().hex[:6]}"
    with log.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", app, *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
        process = Process(child, log)
        try:
            yield process
        except BaseException:
            print(process.text[-8000:])
            raise
        finally:
            process.end()


@dataclass
class Rig:
    """A quorum queue with its own dead-letter queue, a Celery application on it, and a ledger of executions."""

    stack: Stack
    folder: Path
    queue: str = field(default_factory=lambda: f"scratch-{uuid.uuid4().hex[:8]}")

    @property
    def dead(self) -> str:
        return f"{self.queue}-dead"

    @property
    def notices(self) -> str:
        return f"{self.queue}-expired"

    @property
    def prefix(self) -> str:
        """What the keys of its results begin with, below what a worker's login may write."""
        return f"celery-task-meta-{self.queue}:"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    # -- the broker

    def api(self, method: str, path: str, body: object = None, node: str = "rabbit1") -> Any:
        """Call the management API as admin."""
        login = base64.b64encode(f"admin:{password('RABBITMQ_ADMIN_PASSWORD')}".encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        request = Request(
            f"http://{self.stack.address(node)}:15672/api/{path}",
            data,
            {"Authorization": f"Basic {login}"},
            method=method,
        )
        with urlopen(request, timeout=60) as answer:  # noqa: S310 - always http
            content = answer.read()
        return json.loads(content) if content else None

    def together(self) -> bool:
        """Tell whether every broker runs and is connected with the others."""
        return [node["running"] for node in self.api("GET", "nodes?columns=running")] == [True] * 3

    def declare(self, **policy: object) -> None:
        """Declare exchange, queues, bindings and policy as the definitions do for a task queue."""
        for name in (self.queue, self.dead, self.notices):
            arguments = {"x-queue-type": "quorum"}
            self.api("PUT", f"queues/{VHOST}/{name}", {"durable": True, "arguments": arguments})
        self.api("PUT", f"exchanges/{VHOST}/{self.dead}", {"type": "fanout", "durable": True})
        self.api("POST", f"bindings/{VHOST}/e/{self.dead}/q/{self.dead}", {"routing_key": ""})
        for key in (self.queue, f"#.{self.queue}"):
            self.api("POST", f"bindings/{VHOST}/e/tasks/q/{self.queue}", {"routing_key": key})
        for target, queue in (("e/tasks", self.queue), (f"q/{self.notices}", self.notices)):
            binding = {"routing_key": f"#.{queue}"}
            self.api("POST", f"bindings/{VHOST}/e/celery_delayed_delivery/{target}", binding)
        definition = {
            "delivery-limit": 20,
            "dead-letter-exchange": self.dead,
            "dead-letter-strategy": "at-least-once",
            "overflow": "reject-publish",
            "consumer-disconnected-timeout": 5000,
            "delayed-retry-type": "all",
            "delayed-retry-min": 1000,
            "delayed-retry-max": 2000,
        } | {key.replace("_", "-"): value for key, value in policy.items()}
        self.api(
            "PUT",
            f"policies/{VHOST}/{self.queue}",
            {"pattern": f"^{self.queue}$", "apply-to": "quorum_queues", "priority": 5, "definition": definition},
        )

    def remove(self) -> None:
        """Remove what :meth:`declare` made."""
        key = quote(f"#.{self.queue}", safe="")
        for path in (
            f"policies/{VHOST}/{self.queue}",
            f"queues/{VHOST}/{self.queue}",
            f"queues/{VHOST}/{self.dead}",
            f"queues/{VHOST}/{self.notices}",
            f"exchanges/{VHOST}/{self.dead}",
            f"bindings/{VHOST}/e/celery_delayed_delivery/e/tasks/{key}",
        ):
            wait_until(partial(self._without, path), f"{path} is gone")

    def _without(self, path: str) -> bool:
        """Delete something that may be gone already: an attempt whose answer was late."""
        try:
            self.api("DELETE", path)
        except HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
        return True

    def publish(self, body: str, headers: dict[str, Any], **properties: Any) -> None:
        """Publish a raw message to the scratch queue."""
        properties = {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2} | properties
        message = {"routing_key": self.queue, "payload": body, "payload_encoding": "string"}
        answer = self.api(
            "POST", f"exchanges/{VHOST}/tasks/publish", message | {"properties": properties | {"headers": headers}}
        )
        assert answer == {"routed": True}

    def get(self, queue: str, count: int = 100) -> list[dict[str, Any]]:
        """Return messages of a queue and put them back."""
        question = {"count": count, "ackmode": "ack_requeue_true", "encoding": "auto"}
        answer: list[dict[str, Any]] = self.api("POST", f"queues/{VHOST}/{queue}/get", question)
        return answer

    def depth(self, queue: str | None = None) -> tuple[int, int]:
        """Return how many messages wait, held back ones too, and how many are at work."""
        return self.stack.depth(queue or self.queue)

    # -- faults, undone at the end of the block

    @contextmanager
    def disk_alarm(self, node: str = "rabbit1") -> Iterator[None]:
        """Block every publisher of the cluster."""
        limit = self.stack.rabbitmqctl("status", node=node)["disk_free_limit"]

        def need(size: int) -> bool:
            self.stack.inside(node, "rabbitmqctl", "-q", "set_disk_free_limit", str(size))
            return True

        try:
            need(10**15)
            yield
        finally:
            wait_until(partial(need, limit), f"{node} needs no more disk than before")

    @contextmanager
    def paused(self, *services: str) -> Iterator[None]:
        """Freeze containers: their connections stay open and silent."""
        containers = [self.stack.container(service) for service in services]
        try:
            for container in containers:
                self.stack.run("docker", "pause", container)
            yield
        finally:
            for container in containers:
                self.stack.run("docker", "unpause", container, check=False)
            self.stack.wait_healthy(*services)

    @contextmanager
    def cut(self, worker: Process) -> Iterator[None]:
        """Drop the packets of a worker's connections of this moment; new ones pass."""
        sides = (("OUTPUT", "--sport"), ("INPUT", "--dport"))
        rules = [(chain, side, port) for port, _ in worker.broker_connections() for chain, side in sides]
        assert rules
        try:
            for chain, side, port in rules:
                self.stack.run("iptables", "-I", chain, "-p", "tcp", side, port, "-j", "DROP")
            yield
        finally:
            for chain, side, port in rules:
                self.stack.run("iptables", "-D", chain, "-p", "tcp", side, port, "-j", "DROP", check=False)

    # -- the application

    def servers_environment(self) -> dict[str, str]:
        """Return the variables that say where the servers are, logged in to the broker as admin."""
        urls = [urlsplit(url) for url in split_urls(self.stack.settings["HOLDFAST_BROKER_URL"])]
        login = f"admin:{password('RABBITMQ_ADMIN_PASSWORD')}"
        brokers = [urlunsplit(url._replace(netloc=f"{login}@{url.hostname}:{url.port}")) for url in urls]
        return {
            **{name: value for name, value in self.stack.settings.items() if name.startswith("HOLDFAST_")},
            "HOLDFAST_RESULT_URL": made()["environment"]["worker"]["HOLDFAST_RESULT_URL"],
            "HOLDFAST_SCHEDULE_URL": made()["environment"]["beat"]["HOLDFAST_SCHEDULE_URL"],
            "HOLDFAST_BROKER_URL": ",".join(brokers),
            "HOLDFAST_AUDIT_SHARE": "0",  # the stack's beat would miss what goes with a scratch queue
        }

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of a process of the scratch application."""
        return {
            **os.environ,
            **self.servers_environment(),
            "HOLDFAST_QUEUES": self.queue,
            "SCRATCH_NOTICES": self.notices,
            "SCRATCH_PREFIX": self.prefix,
            "HOLDFAST_PULSE_DIR": str(self.folder / "pulse"),
            "PYTHONPATH": str(APPS),
            "PYTHONUNBUFFERED": "1",
            "SCRATCH_LEDGER": str(self.ledger),
            "REMAP_SIGTERM": "SIGQUIT",
            **extra,
        }

    def call(self, code: str, seconds: float = 240, **extra: str) -> str:
        """Run Python code with the scratch application and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", f"from scratch import *\n{code}"],
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def process(self, *arguments: str, **extra: str) -> AbstractContextManager[Process]:
        """Run ``celery -A scratch`` with the arguments until the end of the block."""
        return celery("scratch", *arguments, folder=self.folder, environment=self.environment(**extra))

    @contextmanager
    def worker(self, concurrency: int = 1, *, ready: bool = True, **extra: str) -> Iterator[Process]:
        """Run a worker; with ``ready`` the block begins when it consumes."""
        name = f"w{uuid.uuid4().hex[:6]}@scratch"
        options = ("worker", "-n", name, "-c", str(concurrency), "--loglevel", "INFO")
        with self.process(*options, **extra) as process:
            if ready:
                process.wait_for("ready.")
            yield process

    def heartbeats(self) -> list[Pulse]:
        """Return the heartbeats of the workers and beats that ran here."""
        os.environ["HOLDFAST_PULSE_DIR"] = str(self.folder / "pulse")
        return [found for name in pulse.names() if (found := pulse.read(name))]

    def lines(self, step: str = "") -> list[list[str]]:
        """Return the ledger's lines, split, of one step or all."""
        text = self.ledger.read_text(encoding="utf-8") if self.ledger.exists() else ""
        return [line.split() for line in text.splitlines() if line.startswith(step)]

    def runs(self, step: str) -> Counter[str]:
        """Count the executions of a step by its argument."""
        return Counter(line[1] for line in self.lines(step))

    def drained(self, deadline: float = DEADLINE) -> None:
        """Wait until the scratch queue has been empty for 3 s: a retry after a second is in another one meanwhile."""
        since: list[float] = []

        def empty() -> bool:
            if self.depth() == (0, 0):
                since.append(time.monotonic())
            else:
                since.clear()
            return bool(since) and since[-1] - since[0] > 3

        wait_until(empty, f"{self.queue} is empty", deadline)


@dataclass
class Process:
    """A running ``celery`` process and its log."""

    child: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def broker_connections(self) -> list[tuple[str, str]]:
        """Return local port and node address of each connection of the main process to a broker."""
        found = []
        command = ["ss", "-Htnp", "state", "established", "dport", "=", ":5672"]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            if f"pid={self.child.pid}," in line:
                _, _, here, there, *_ = line.split()
                found.append((here.rpartition(":")[2], there.rpartition(":")[0]))
        return found

    def consumes_from(self) -> str:
        """Return the address of the broker that it consumes from; its events may go to another one."""
        return str(re.findall(r"Connected to amqps?://\S*@([\d.]+):", self.text)[-1])

    def wait_for(self, words: str, deadline: float = DEADLINE, times: int = 1) -> None:
        """Wait until the log contains ``words`` so many times."""
        try:
            wait_until(lambda: self.text.count(words) >= times or not self.alive, f"{words!r} in the log", deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text[-4000:]}") from None
        assert self.text.count(words) >= times, f"the process ended with {self.child.poll()}:\n{self.text[-4000:]}"

    def end(self) -> None:
        """Kill the process and its children."""
        for number in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.killpg(self.child.pid, number)
            except ProcessLookupError:
                break
        self.child.wait(DEADLINE)

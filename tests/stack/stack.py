"""The running local stack as the tests see it: look at it, run commands in it, break it, wait for a condition."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parents[2]
PROJECT = os.environ.get("COMPOSE_PROJECT_NAME", "holdfast")
POLL_SECONDS = 0.25
DEADLINE = 120.0  # seconds: how long something takes says how busy the machine is; only a promise has another one
ADDRESS = os.environ.get("HOLDFAST_ADDRESS", "127.0.0.1")
PROMETHEUS = f"http://{ADDRESS}:9090"
ALERTMANAGER = f"http://{ADDRESS}:9093"
DEPTH = """
{ok, Queue} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"holdfast">>, queue, <<"%s">>)),
{ok, {_, #{num_messages := All, num_checked_out := AtWork}}, _} =
    ra:leader_query(amqqueue:get_pid(Queue), {rabbit_fifo, overview, []}),
[All - AtWork, AtWork].
"""


def wait_until[T](probe: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """Return the first true answer of ``probe``; fail with ``what`` and its last answer after ``deadline`` seconds.

    An answer that is not there yet, or that does not come in time, is no answer: it is asked again.
    """
    end = time.monotonic() + deadline
    answer: object = None
    while time.monotonic() < end:
        try:
            value = probe()
        except NO_ANSWER as error:
            answer = error
        else:
            if value:
                return value
            answer = value
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"{what}: not within {deadline:g} s; last seen: {answer!r}")


class CommandFailedError(Exception):
    """A command of the stack ended with an error; the text is what it printed."""


NO_ANSWER = OSError, ValueError, LookupError, HTTPException, subprocess.SubprocessError, CommandFailedError


@dataclass(frozen=True)
class Stack:
    """Commands against the compose project; every one is bounded in time."""

    settings: Mapping[str, str] = field(repr=False)  # holds passwords

    def run(self, *command: str, seconds: float = DEADLINE, check: bool = True) -> str:
        """Run a command on the host and return what it printed."""
        return subprocess.run(command, check=check, timeout=seconds, text=True, capture_output=True).stdout.strip()

    def compose(self, *arguments: str, seconds: float = 300, check: bool = True) -> str:
        """Run a docker compose command on the project."""
        return self.run("docker", "compose", "-f", str(ROOT / "compose.yaml"), *arguments, seconds=seconds, check=check)

    def container(self, service: str) -> str:
        """Return the id of the container of ``service``, running or not."""
        return self.run(
            "docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}",
            "--filter", f"label=com.docker.compose.service={service}",
            "--filter", "label=com.docker.compose.oneoff=False",
        )  # fmt: skip

    def inside(self, service: str, *command: str, seconds: float = DEADLINE, check: bool = True) -> str:
        """Run a command in the container of ``service``."""
        return self.run("docker", "exec", self.container(service), *command, seconds=seconds, check=check)

    def state(self, service: str) -> dict[str, Any]:
        """Return docker's own state of the container: Status, Pid, Health, StartedAt."""
        answer: dict[str, Any] = json.loads(
            self.run("docker", "inspect", "-f", "{{json .State}}", self.container(service))
        )
        return answer

    def healthy(self, service: str) -> bool:
        """Tell whether the container runs and its health check is green."""
        state = self.state(service)
        return bool(state["Running"]) and state.get("Health", {}).get("Status", "healthy") == "healthy"

    def wait_healthy(self, *services: str, deadline: float = DEADLINE) -> None:
        """Wait until every named service is green."""
        for service in services:
            wait_until(partial(self.healthy, service), f"{service} is healthy", deadline)

    def kill(self, service: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Signal the main process from outside: unlike ``docker kill`` this leaves the restart policy in force."""
        # 0 while it is being started: the group of this very process
        pid = wait_until(lambda: int(self.state(service)["Pid"]), f"{service} has a process")
        os.kill(pid, sig)

    def pool_children(self, service: str) -> list[int]:
        """Return the host process ids of the Celery pool children in the container."""
        lines = self.run("docker", "top", self.container(service), "-eo", "pid,ppid,args").splitlines()[1:]
        celery = {
            int(pid): int(ppid) for pid, ppid, args in (line.split(None, 2) for line in lines) if "celery" in args
        }
        return [pid for pid, parent in celery.items() if parent in celery]

    def webhooks(self, *arguments: str, seconds: float = 180, check: bool = True) -> str:
        """Run the sample application's command on the host, against the stack."""
        return self._tool("webhooks", *arguments, seconds=seconds, check=check)

    def holdfast(self, *arguments: str, seconds: float = DEADLINE, check: bool = True) -> str:
        """Run the layer's command on the host, against the stack."""
        return self._tool("holdfast", *arguments, seconds=seconds, check=check)

    def operator(self, *arguments: str) -> str:
        """Run the layer's command with the login of an operator, as the pages tell it."""
        return self.compose("run", "--rm", "operator", "holdfast", *arguments)

    def result(self, task_id: str) -> str:
        """Return the stored result of a task as ``celery result`` prints it."""
        return self._tool("celery", "-A", "webhooks.app", "result", task_id, seconds=DEADLINE)

    def _tool(self, tool: str, *arguments: str, seconds: float, check: bool = True) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).parent / tool), *arguments],
            check=False, timeout=seconds, text=True, capture_output=True, env={**os.environ, **self.settings},
        )  # fmt: skip
        if check and done.returncode:
            raise CommandFailedError(
                f"{tool} {' '.join(arguments)} ended with {done.returncode}: {done.stderr or done.stdout}"
            )
        return done.stdout.strip()

    def rabbitmqctl(self, *arguments: str, node: str = "rabbit1") -> Any:
        """Run rabbitmqctl on a node and return its JSON answer."""
        return json.loads(self.inside(node, "rabbitmqctl", "-q", *arguments, "--formatter", "json"))

    def queue(self, name: str, *columns: str, node: str = "rabbit1") -> dict[str, Any]:
        """Return columns of one queue of the vhost."""
        rows: list[dict[str, Any]] = self.rabbitmqctl("list_queues", "-p", "holdfast", "name", *columns, node=node)
        for row in rows:
            if row["name"] == name:
                return row
        raise ValueError(f"{node} does not list the queue {name}")

    def depth(self, name: str, node: str = "rabbit1") -> tuple[int, int]:
        """Return how many messages of a quorum queue wait, held back or about to be dead ones too, and are at work.

        Asked from its leader: the counts of ``list_queues`` and of the management API are up to 5 s old.
        """
        waiting, at_work = json.loads(self.inside(node, "rabbitmqctl", "-q", "eval", DEPTH % name))
        return waiting, at_work

    def redis_primary(self) -> str:
        """Return the service name of the Redis that Sentinel calls primary now."""
        address = self.sentinel("get-master-addr-by-name", "results")[0]
        for name in ("redis1", "redis2", "redis3"):
            if self.address(name) == address:
                return name
        raise ValueError(f"sentinel1 names {address} as the primary, which is no node of this stack")

    def sentinel(self, *command: str, service: str = "sentinel1") -> list[str]:
        """Run a SENTINEL command as the application's user and return its lines."""
        user, password = self.settings["HOLDFAST_SENTINEL_USERNAME"], self.settings["HOLDFAST_SENTINEL_PASSWORD"]
        return self.inside(
            service, "env", f"REDISCLI_AUTH={password}",
            "redis-cli", "-p", "26379", "--user", user, "--no-auth-warning", "SENTINEL", *command,
        ).splitlines()  # fmt: skip

    def address(self, service: str) -> str:
        """Return the container's address on the stack's network."""
        return (
            self.run(
                "docker",
                "inspect",
                "-f",
                "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
                self.container(service),
            )
            or json.loads(
                self.run("docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", self.container(service))
            ).popitem()[1]["IPAMConfig"]["IPv4Address"]
        )


@cache
def made() -> dict[str, Any]:
    """Return what the stack's service ``init`` has made: passwords, environments and files."""
    done = subprocess.run([ROOT / "scripts/passwords", "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailedError(f"scripts/passwords ended with {done.returncode}: {done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def password(name: str) -> str:
    """Return one of the stack's passwords."""
    value: str = made()["passwords"][name]
    return value


def read_settings() -> dict[str, str]:
    """Return the application's environment as the stack's containers get it."""
    found: dict[str, str] = made()["environment"]["app"]
    return found


def http_json(url: str, body: object = None, seconds: float = 30, headers: Mapping[str, str] | None = None) -> Any:
    """GET a JSON document, or POST ``body`` as JSON and return the answer; None for an answer without one."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 - loopback and the stack's own network
    with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 - as above
        text = answer.read()
    return json.loads(text) if text else None


def login(name: str) -> dict[str, str]:
    """Return the header with the login of a page's user ``admin``, whose password has this name."""
    return {"Authorization": f"Basic {base64.b64encode(f'admin:{password(name)}'.encode()).decode()}"}


def prometheus(path: str) -> Any:
    """Return what the API of the stack's Prometheus answers to a path."""
    return http_json(f"{PROMETHEUS}/api/v1/{path}", headers=login("PROMETHEUS_PASSWORD"))


def alertmanager(path: str, body: object = None) -> Any:
    """Ask the API of the stack's Alertmanager, or tell it something."""
    return http_json(f"{ALERTMANAGER}/api/v2/{path}", body, headers=login("ALERTMANAGER_PASSWORD"))

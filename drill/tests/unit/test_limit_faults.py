"""A server at its limit of open files: a real process that takes no new connection, and goes on with the others."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeTarget

from drill.faults import REGISTRY, limits, undo
from drill.targets import TargetError
from drill.targets.stack import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drill.targets import Node

RNG = random.Random(1)  # noqa: S311 - repeatable, not secret
SERVES = """
import socket, threading, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def serve(client):
    while client.recv(100):
        client.sendall(b"+")
while True:
    try:
        client, _ = listener.accept()
    except OSError:
        time.sleep(0.05)  # no descriptor is left
        continue
    threading.Thread(target=serve, args=[client], daemon=True).start()
"""


class Here(FakeTarget):
    """A target whose commands run on this machine."""

    def run(self, node: Node, *command: str, timeout: float = 60) -> str:
        self.done.append(f"run {node.name}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode:
            raise TargetError(done.stderr)
        return done.stdout

    def network(self, node: Node, script: str) -> str:
        return self.run(node, "sh", "-ec", script)


class Server:
    """A process that answers whatever a client sends, and a stack that has it as its only broker."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVES], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.broker_port = int(self.process.stdout.readline())
        self.target = Here("rabbit1")
        node = self.target.nodes["rabbit1"]
        self.target.nodes["rabbit1"] = type(node)("rabbit1", "rabbit", "127.0.0.1", "rabbit1", "rabbit1")
        self.settings = Settings(1, 5, 4, 5, 20, 4, 2, 2, 20)
        self.said: list[tuple[str, ...]] = []
        self.watches = "true"
        self.patience = 10.0

    def node(self, name: str) -> Node:
        return self.target.nodes[name]

    def tier(self, _name: str) -> list[Node]:
        return list(self.target.nodes.values())

    def management(self, path: str) -> list[dict[str, str]]:
        assert path in {"nodes", "connections"}
        return [{"name": "rabbit@rabbit1", "node": "rabbit@rabbit1", "os_pid": str(self.process.pid)}]

    def ctl(self, _node: Node, *arguments: str) -> str:
        self.said.append(arguments)
        return self.watches

    def wait(self, condition: Callable[[], Any], timeout: float) -> Any:
        deadline = time.monotonic() + min(timeout, self.patience)
        while not (answer := condition()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(limits, "PATIENCE", 0.5)
    found = Server()
    yield found
    found.process.kill()
    found.process.communicate()


@pytest.fixture
def old(server: Any) -> Iterator[socket.socket]:
    """Return a connection from before the fault, which the server has answered."""
    with closing(socket.create_connection(("127.0.0.1", server.broker_port))) as client:
        client.sendall(b"before")
        assert client.recv(1) == b"+"
        yield client


def test_a_broker_at_its_limit_takes_no_new_client_and_keeps_the_others(server: Any, old: socket.socket) -> None:
    plan = REGISTRY["broker-descriptor-limit"].plan(server, RNG)
    assert not plan.proof(), "nothing has happened"
    plan.apply()
    assert plan.proof().endswith("answers no new client; 1 of 1 connections from before go on")
    assert not plan.healed()
    old.sendall(b"while")
    assert old.recv(1) == b"+"
    old.close()
    assert not plan.proof(), "no connection is left"
    for _ in range(2):  # a step of healing may be done again
        for step in plan.undo:
            undo(server, step)
    assert server.said[-2:] == [("stop_app",), ("start_app",)]
    assert plan.healed().endswith("files, answers, and watches its memory")
    server.watches = "false"
    assert not plan.healed(), "it needs its restart"


def test_a_limit_that_is_not_reached_is_an_error(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = REGISTRY["broker-descriptor-limit"].plan(server, RNG)
    monkeypatch.setattr(limits, "_answers", lambda *_: True)
    server.patience = 0.1
    with pytest.raises(TargetError, match="still answers new connections at a limit of"):
        plan.apply()
    assert not plan.proof()


def test_nothing_is_to_heal_once_the_process_is_gone(server: Any) -> None:
    plan = REGISTRY["broker-descriptor-limit"].plan(server, RNG)
    plan.apply()
    server.process.kill()
    server.process.wait()
    for step in plan.undo:
        undo(server, step)
    with pytest.raises(TargetError):
        plan.proof()

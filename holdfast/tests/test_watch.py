"""The watch: which programs of supervisor it restarts, over supervisor's real protocols."""

from __future__ import annotations

import io
import os
import socketserver
import threading
from contextlib import contextmanager
from time import time
from typing import TYPE_CHECKING, Any
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

import pytest

from holdfast import watch
from holdfast.pulse import Pulse, Queue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TICK = "ver:3.0 server:supervisor serial:1 pool:watch poolserial:1 eventname:TICK_5 len:15\nwhen:1201063880"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_PULSE_DIR", str(tmp_path))


def program(name: str, **changes: Any) -> dict[str, Any]:
    start = int(time()) - 100
    return {"name": name, "group": name, "statename": "RUNNING", "start": start, "pid": os.getpid()} | changes


def heartbeat(name: str, **changes: Any) -> None:
    beat = Pulse(name, "worker", state="consuming", queues={"q": Queue(time(), 0, 1)})
    for key, value in changes.items():
        setattr(beat, key, value)
    beat.write()


def test_only_what_should_work_and_does_not_is_sick() -> None:
    heartbeat("well")
    heartbeat("idle", queues={"q": Queue(time() - 61, 3, 0)})
    heartbeat("young", queues={})
    heartbeat("stopped", queues={})
    heartbeat("silent", pid=1)
    found = watch.sick(
        [
            program("well"),
            program("idle"),
            program("young", start=int(time())),
            program("stopped", statename="STOPPED"),
            program("silent"),
            program("not-ours"),
        ]
    )
    assert found.pop("idle:idle").startswith("the broker knows no consumer of queue q")
    assert found == {"silent:silent": "it has written no heartbeat since its start"}


class _Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ()
    disable_nagle_algorithm = False

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer, SimpleXMLRPCDispatcher):
    daemon_threads = True
    logRequests = False  # noqa: N815 - the standard library's name

    def __init__(self, path: str) -> None:
        SimpleXMLRPCDispatcher.__init__(self, allow_none=True)
        socketserver.UnixStreamServer.__init__(self, path, _Handler)


@contextmanager
def supervisor(path: Path, programs: list[dict[str, Any]]) -> Iterator[list[tuple[str, str]]]:
    """Serve supervisor's XML-RPC on a Unix socket and note what is asked for."""
    asked: list[tuple[str, str]] = []
    server = _Server(str(path))
    server.register_function(lambda: programs, "supervisor.getAllProcessInfo")
    server.register_function(lambda name, _wait=True: asked.append(("stop", name)), "supervisor.stopProcess")
    server.register_function(lambda name, _wait=True: asked.append(("start", name)), "supervisor.startProcess")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_sick_program_is_restarted_at_the_next_tick(tmp_path: Path) -> None:
    heartbeat("idle", queues={})
    answers = io.StringIO()
    with supervisor(tmp_path / "s.sock", [program("idle")]) as asked:
        watch.run(io.StringIO(TICK + TICK), answers, f"unix://{tmp_path / 's.sock'}")
    assert asked == [("stop", "idle:idle"), ("start", "idle:idle")] * 2
    assert answers.getvalue() == "READY\nRESULT 2\nOK" * 2 + "READY\n"


def test_a_paused_program_is_left_alone_and_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heartbeat("idle", queues={}, paused={"q": 0.0})
    heartbeat("other", queues={}, paused={"q": 0.0}, pid=1)
    with supervisor(tmp_path / "s.sock", [program("idle")]) as asked:
        watch.run(io.StringIO(TICK + TICK), io.StringIO(), f"unix://{tmp_path / 's.sock'}")
    assert asked == []
    said = capsys.readouterr().err
    assert said == "Leaving idle:idle alone: queue q is paused by remote control since 1970-01-01 00:00:00 UTC\n"


def test_a_supervisor_that_does_not_answer_is_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = io.StringIO()
    watch.run(io.StringIO(TICK), answers, f"unix://{tmp_path / 'absent.sock'}")
    assert answers.getvalue() == "READY\nRESULT 2\nOKREADY\n"
    assert "does not answer" in capsys.readouterr().err

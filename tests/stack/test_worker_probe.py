"""The probe and the watch: a worker that runs and does nothing is found out and restarted by a real supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .publishing import NODES
from .stack import wait_until

if TYPE_CHECKING:
    from .rig import Rig

pytestmark = [pytest.mark.stack, pytest.mark.long]

SUPERVISOR = """
[supervisord]
nodaemon = true
pidfile = {folder}/supervisord.pid
logfile = {folder}/supervisord.log

[unix_http_server]
file = {folder}/supervisor.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[program:scratch]
command = {python} -m celery -A scratch worker -c 1 --loglevel INFO
stopwaitsecs = 3
killasgroup = true
redirect_stderr = true
stdout_logfile = {folder}/worker.log

[eventlistener:watch]
command = {python} -c "from holdfast.cli import main; main()" probe watch
events = TICK_5
stderr_logfile = {folder}/watch.log
"""


def probe(rig: Rig, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``holdfast probe``."""
    command = [sys.executable, "-c", "from holdfast.cli import main; main()", "probe", *arguments]
    return subprocess.run(command, env=rig.environment(), capture_output=True, text=True, timeout=20, check=False)


def test_supervisor_restarts_a_worker_that_stands_still(rig: Rig) -> None:
    config = rig.folder / "supervisord.conf"
    config.write_text(SUPERVISOR.format(folder=rig.folder, python=sys.executable), encoding="utf-8")
    environment = rig.environment()
    with (rig.folder / "output").open("w") as output:
        supervisor = subprocess.Popen(
            [Path(sys.executable).with_name("supervisord"), "-c", config],
            env=environment,
            cwd=rig.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: probe(rig, "worker").stdout == "scratch: ok\n", "the probe finds the worker well", 40)
        (first,) = rig.heartbeats()
        os.kill(first.pid, signal.SIGSTOP)
        rig.call("echo.delay('waiting')")
        wait_until(lambda: "stood still" in probe(rig, "worker").stdout, "the probe says what is wrong", 45)
        assert probe(rig, "worker", "scratch").returncode == 1
        wait_until(lambda: rig.runs("end") == {"waiting": 1}, "a new worker runs what waited", 90)
        assert "Restarting scratch:scratch: the main loop has stood still" in (rig.folder / "watch.log").read_text()
        assert rig.heartbeats()[0].pid != first.pid
        assert probe(rig, "worker").returncode == 0
    finally:
        supervisor.terminate()
        supervisor.wait(30)


def test_the_probe_tells_a_worker_that_has_ended_from_one_that_works(rig: Rig) -> None:
    with rig.worker() as worker:
        assert probe(rig, "worker").returncode == 0
        assert probe(rig, "beat").returncode == 1
        worker.end()
        answer = probe(rig, "worker")
        assert (answer.returncode, "has ended" in answer.stdout) == (1, True)


def test_a_worker_leaves_a_frozen_node_and_its_restart_does_not_hang_on_one(rig: Rig) -> None:
    with rig.worker() as worker:
        node = next(name for name in NODES if rig.stack.address(name) == worker.consumes_from())
        with rig.paused(node):
            worker.wait_for("Connected to amqp", 45, times=2)
            with rig.worker() as second:  # ready, though a third of its attempts to connect meet the frozen node
                rig.call("echo.delay('meanwhile')")
                # the broker hands it to the frozen consumer until it takes that node for dead (net_ticktime: 60 s)
                wait_until(lambda: rig.runs("end")["meanwhile"] == 1, "the task is run elsewhere", 120)
                assert second.alive
        rig.call("echo.delay('after')")
        wait_until(lambda: rig.runs("end")["after"] == 1, "it goes on after the node is back", 30)
        assert worker.alive
        assert [beat.problems() for beat in rig.heartbeats()][:1] == [[]]

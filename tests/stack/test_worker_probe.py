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
    return subprocess.run(command, env=rig.environment(), capture_output=True, text=True, timeout=60, check=False)


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
        wait_until(lambda: probe(rig, "worker").stdout == "scratch: ok\n", "the probe finds the worker well")
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
        wait_until(lambda: rig.runs("end")["after"] == 1, "it goes on after the node is back")
        assert worker.alive
        assert [beat.problems() for beat in rig.heartbeats()][:1] == [[]]


def test_a_cancelled_queue_is_paused_until_it_is_added_again(rig: Rig) -> None:
    """Not sick, whatever happens meanwhile: a task that runs, a lost connection."""
    with rig.worker() as worker:
        rig.call("echo.delay('running', 5)")
        wait_until(lambda: rig.runs("echo") == {"running": 1}, "a task runs")
        rig.call(f"app.control.cancel_consumer({rig.queue!r})")
        words = f"ok; queue {rig.queue} is paused by remote control since "
        wait_until(lambda: words in probe(rig, "worker").stdout, "the probe says that it is paused")
        wait_until(lambda: rig.runs("end") == {"running": 1}, "the task that ran ends")
        rig.call("echo.delay('waiting')")
        with rig.cut(worker):
            worker.wait_for("Connected to amqp", 60, times=2)
        answer = probe(rig, "worker")
        assert (answer.returncode, words in answer.stdout) == (0, True), answer.stdout
        assert rig.runs("echo") == {"running": 1}
        rig.call(f"app.control.add_consumer({rig.queue!r})")
        wait_until(lambda: rig.runs("end") == {"running": 1, "waiting": 1}, "what waited is run")
        wait_until(lambda: probe(rig, "worker").stdout.endswith(": ok\n"), "the pause is over")
    with rig.worker():
        assert "paused" not in probe(rig, "worker").stdout, "a restart consumes from everything"


def test_a_solo_worker_in_a_long_task_is_not_sick_and_one_that_hangs_is(rig: Rig) -> None:
    solo = ("worker", "-P", "solo", "-n", "solo@scratch", "--loglevel", "INFO")
    with rig.process(*solo) as worker:
        worker.wait_for("ready.", 60)
        rig.call("echo.delay('long', 75)")
        wait_until(lambda: "its main loop runs scratch.echo since" in probe(rig, "worker").stdout, "it says so", 60)
        while not rig.runs("end"):
            answer = probe(rig, "worker")
            assert answer.returncode == 0, answer.stdout
        rig.drained()
        assert probe(rig, "worker").returncode == 0
        assert rig.runs("echo") == {"long": 1}, "it kept its connection"
    with rig.process(*solo, HOLDFAST_TIME_LIMIT="10") as worker:
        worker.wait_for("ready.", 60)
        rig.call("echo.delay('hangs', 300)")
        found = "since it began to run scratch.echo (limit 40)"
        wait_until(lambda: found in probe(rig, "worker").stdout, "it is found beyond its limit", 90)


def test_a_green_worker_keeps_working(rig: Rig) -> None:
    """Its control queue is on another connection, which the heartbeat must not touch."""
    with rig.process("worker", "-P", "gevent", "-n", "green@scratch", "--loglevel", "INFO") as worker:
        worker.wait_for("ready.", 60)
        wait_until(lambda: all(beat.queues[rig.queue].consumers for beat in rig.heartbeats()), "it has asked")
        rig.call("echo.delay('green', 12)")
        wait_until(lambda: rig.runs("end") == {"green": 1}, "the task ends after two further heartbeats", 60)
        assert worker.alive
        assert probe(rig, "worker").returncode == 0

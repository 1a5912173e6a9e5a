"""What a stolen login of RabbitMQ gives its thief; and that each role's login is enough for its work."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from amqp import Message
from amqp.exceptions import AccessRefused, NotAllowed
from celery import Celery
from click import ClickException
from kombu.exceptions import OperationalError

from holdfast import routing
from holdfast.dead import open_office

from ..rig import Process
from ..servers import free_ports
from ..stack import http_json, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .broker import Broker

pytestmark = pytest.mark.stack

APPLICATION = """
import os
from celery import Celery
import holdfast

app = Celery("roles")
app.config_from_object("holdfast.settings")
app.conf.task_ignore_result = True
holdfast.install(app)

def note(step):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(step + "\\n")

@app.task(shared=False, name="again", bind=True, max_retries=1)
def again(self, step):
    if not self.request.retries:
        raise self.retry(countdown=1)
    note(step)

@app.task(shared=False, name="first")
def first():
    note("first")

@app.task(shared=False, name="broken")
def broken():
    raise ValueError("for good")
"""
PUBLISHER = """
from roles import again, broken, first
again.delay("retried")
again.apply_async(("delayed and retried",), countdown=2)
(first.si() | again.si("chained")).delay()
broken.delay()
"""


def environment(broker: Broker, folder: Path, user: str) -> dict[str, str]:
    """Return the environment of a program that logs in to the broker as a user; nobody reads or writes results."""
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(folder),
        "LEDGER": str(folder / "ledger"),
        "REMAP_SIGTERM": "SIGQUIT",
        "HOLDFAST_BROKER_URL": broker.url(user),
        "HOLDFAST_RESULT_URL": "sentinel://nobody:nothing@127.0.0.1:1/0",
        "HOLDFAST_SENTINEL_MASTER": "results",
        "HOLDFAST_PULSE_DIR": str(folder / "pulse"),
    }


@contextmanager
def worker(broker: Broker, folder: Path, user: str = "worker") -> Iterator[Process]:
    """Run a worker; one with the login of workers is ready when the block begins."""
    (folder / "roles.py").write_text(APPLICATION, encoding="utf-8")
    command = [sys.executable, "-m", "celery", "-A", "roles", "worker", "-n", "w@roles", "-c", "1", "-l", "INFO"]
    log = folder / "log"
    with log.open("w") as output:
        variables = environment(broker, folder, user)
        child = subprocess.Popen(
            command, env=variables, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    process = Process(child, log)
    try:
        if user == "worker":
            process.wait_for("ready.", 120)
        yield process
    finally:
        process.end()


def http_text(url: str) -> str:
    """Return a page."""
    with urlopen(url, timeout=10) as answer:  # noqa: S310 - an address of this machine
        return str(answer.read().decode())


def log(broker: Broker) -> str:
    """Return what the broker has logged."""
    done = subprocess.run(["docker", "logs", broker.container], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def refusals(broker: Broker) -> list[str]:
    """Return what the broker has refused."""
    return [line for line in log(broker).splitlines() if "access_refused" in line or "refused for user" in line]


def command(broker: Broker, user: str, name: str) -> Any:
    """Send a command to all workers as a user, and return their replies."""
    with Celery(broker=broker.url(user), set_as_current=False) as app:
        return app.control.broadcast(name, reply=name == "ping", timeout=60, limit=1)  # the first reply ends it


@contextmanager
def flower(broker: Broker, folder: Path, control: str = "off") -> Iterator[str]:
    """Run Flower with its login; when the block begins it follows the worker. Gives the address of its API."""
    port = free_ports(1)[0]
    variables = environment(broker, folder, "flower") | {
        "HOLDFAST_REMOTE_CONTROL": control,
        "FLOWER_UNAUTHENTICATED_API": "true",
    }
    command = [sys.executable, "-m", "celery", "-A", "roles", "flower", f"--port={port}", "--address=127.0.0.1"]
    with (folder / "flower-log").open("w") as output:
        child = subprocess.Popen(
            command, env=variables, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    process = Process(child, folder / "flower-log")
    try:
        process.wait_for("Connected to amqp", 120)  # which it says before it listens to events
        page = f"http://127.0.0.1:{port}"
        wait_until(lambda: "w@roles" in http_text(f"{page}/workers"), "Flower has seen the worker", 60)
        yield page
    except BaseException:
        print(process.text[-4000:])
        raise
    finally:
        process.end()


def names(url: str) -> set[str]:
    """Return the names and states of the tasks that Flower has seen."""
    return {f"{task['name']} {task['state']}" for task in http_json(f"{url}/api/tasks").values()}


def test_the_logins_are_enough_for_their_roles(broker: Broker, tmp_path: Path) -> None:
    """A worker, a publisher, Flower and an operator work, and the broker refuses none of them."""
    before = refusals(broker)
    ledger = tmp_path / "ledger"
    steps = {"retried", "delayed and retried", "first", "chained"}
    with worker(broker, tmp_path) as process, flower(broker, tmp_path) as page:
        variables = environment(broker, tmp_path, "app")
        subprocess.run([sys.executable, "-c", PUBLISHER], env=variables, timeout=240, check=True)
        wait_until(lambda: set(ledger.read_text().splitlines()) == steps, "all ran", 90)
        seen = {"again SUCCESS", "first SUCCESS", "broken FAILURE"}
        wait_until(lambda: names(page) >= seen, "Flower has seen the tasks", 60)
        assert command(broker, "operator", "ping") == [{"w@roles": {"ok": "pong"}}]
        app = Celery(set_as_current=False)
        app.conf.task_queues = routing.queues(("default", "critical"))

        def died(replay: bool) -> bool:
            with open_office(app, "dead", broker.url("operator")) as office:
                # beside what other tests have published that is no task
                found = [one for one in office.letters() if one.headers.get("task") == "broken"]
                for letter in found if replay else ():
                    office.replay(letter, None)
                return len(found) == 1

        wait_until(lambda: died(replay=True), "the failed task is a dead letter, and replayed", 60)
        process.wait_for("ValueError('for good')", 60, times=2)
        wait_until(lambda: died(replay=False), "it is one again: nothing of it is left to later tests", 60)
    assert refusals(broker) == before


def test_a_web_process_handles_dead_letters_only_with_a_second_login(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the admin site of Django does: the application keeps the login of publishers."""
    app = Celery(broker=broker.url("app"), set_as_current=False)
    app.conf.task_queues = routing.queues(("default", "critical"))
    with app, broker.connect("admin") as connection:
        channel = connection.channel()

        def handle(*, replay: bool = False) -> bool:
            """Tell whether the letter is there; letters of other tests may be on their way back to the queue."""
            with open_office(app, "dead") as office:  # in one: what another has looked at is on its way back
                found = [one for one in office.letters() if one.task_id == "dead"]
                for one in found if replay else ():
                    office.replay(one, "default")
            return bool(found)

        def published() -> bool:
            """Tell whether the next message of the queue is the letter's."""
            message = channel.basic_get("default", no_ack=True)
            return bool(message and (message.headers or {}).get("id") == "dead")

        with pytest.raises(ClickException, match=r"(?s)refused for user 'app'.*HOLDFAST_OPERATOR_URL"):
            handle()  # also while there is none
        letter = Message("[[], {}, {}]", application_headers={"id": "dead", "task": "of nobody"}, delivery_mode=2)
        channel.basic_publish(letter, exchange="dead", routing_key="default")
        with pytest.raises(ClickException, match=r"(?s)refused for user 'app'.*HOLDFAST_OPERATOR_URL"):
            handle()

        monkeypatch.setenv("HOLDFAST_OPERATOR_URL", broker.url("operator"))
        wait_until(lambda: handle(replay=True), "the letter is shown, and replayed", 60)
        assert not handle()
        wait_until(published, "it was published to its queue", 60)


@pytest.mark.parametrize("user", ["app", "worker", "flower", "monitor"])
def test_a_stolen_login_cannot_shut_a_worker_down(broker: Broker, tmp_path: Path, user: str) -> None:
    before = refusals(broker)
    with worker(broker, tmp_path) as process:
        # the answer to a publish may come too late to be seen; with the layer's transport it is an OperationalError
        with suppress(AccessRefused, NotAllowed, OperationalError):
            command(broker, user, "shutdown")
        refused = wait_until(lambda: refusals(broker)[len(before) :], "the broker has refused it", 60)
        assert all(f"refused for user '{user}'" in line for line in refused)
        assert command(broker, "operator", "ping") == [{"w@roles": {"ok": "pong"}}]
        assert process.alive


def test_a_worker_with_the_login_of_publishers_is_refused(broker: Broker, tmp_path: Path) -> None:
    with worker(broker, tmp_path, "app") as process:
        wait_until(lambda: not process.alive, "the worker has ended", 120)
    assert process.child.returncode
    for word in ("holdfast refuses to start", "consume tasks", "refused for user 'app'", "login-worker.env"):
        assert word in process.text, process.text[-3000:]


def test_an_operator_can_shut_a_worker_down(broker: Broker, tmp_path: Path) -> None:
    """The control of the test above."""
    with worker(broker, tmp_path) as process:
        command(broker, "operator", "shutdown")
        wait_until(lambda: not process.alive, "the worker has ended", 120)


def test_the_page_of_flower_cannot_shut_a_worker_down(broker: Broker, tmp_path: Path) -> None:
    with worker(broker, tmp_path) as process, flower(broker, tmp_path) as page:
        with pytest.raises(HTTPError):
            http_json(f"{page}/api/worker/shutdown/w@roles", {})
        assert command(broker, "operator", "ping") == [{"w@roles": {"ok": "pong"}}]
        assert process.alive


def test_only_the_login_of_http_has_a_limit_of_connections(broker: Broker) -> None:
    """Counting connections asks all nodes: while one is frozen, a login with a limit gets in nowhere."""
    limits = {user["name"]: user["limits"] for user in broker.definitions["users"] if user["limits"]}
    assert limits == {"monitor": {"max-connections": 0}}
    with pytest.raises(NotAllowed, match=r"user connection limit .0. is reached"):
        broker.connect("monitor")
    broker.connect("app").close()


def test_logins_are_logged(broker: Broker) -> None:
    broker.connect("app").close()
    with pytest.raises(AccessRefused):
        broker.connect("app", "wrong")
    wait_until(lambda: "user 'app' authenticated and granted access to vhost 'holdfast'" in log(broker), "success", 60)
    wait_until(lambda: "PLAIN login refused: user 'app' - invalid credentials" in log(broker), "failure", 60)

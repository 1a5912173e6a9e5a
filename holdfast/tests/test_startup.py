"""A deployment that cannot keep the promise does not start, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import pytest
from celery import Celery, beat
from celery.contrib.testing.worker import start_worker
from celery.signals import beat_init
from kombu import Exchange, Queue

from holdfast import routing, startup

ENVIRONMENT = {
    "HOLDFAST_BROKER_URL": "amqp://app:secret@192.0.2.11:5672/holdfast",
    "HOLDFAST_RESULT_URL": "sentinel://app:secret@192.0.2.31:26379/0",
    "HOLDFAST_SENTINEL_MASTER": "results",
}
WITHOUT_PACKAGING = """
import sys
sys.modules["packaging"] = sys.modules["packaging.version"] = None  # importing it fails as if it were not installed
from celery import Celery
from holdfast import startup
app = Celery("test")
app.config_from_object("holdfast.settings")
startup.install(app)
app.worker_main(["worker", "--pool=solo"])
"""


def test_a_worker_without_the_redis_extra_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGING],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert 'pip install "celery[redis]"' in done.stderr


@pytest.mark.parametrize(("package", "found"), [("celery", "5.6.3"), ("kombu", "5.6.9"), ("amqp", "5.4.1")])
def test_an_old_version_is_refused(monkeypatch: pytest.MonkeyPatch, package: str, found: str) -> None:
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: found if name == package else installed(name))
    with pytest.raises(startup.StartupError, match=f"{package} {found} is installed"):
        startup.check_versions()


@pytest.mark.parametrize("found", ["5.7", "5.7.0", "5.8.0rc1", "6.0", "5.10.0"])
def test_a_newer_version_is_taken(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: found)
    startup.check_versions()


def test_a_queue_that_lives_on_one_node_is_refused() -> None:
    app = Celery("test", broker="amqp://192.0.2.1")
    app.conf.task_queues = [Queue("mail", Exchange("tasks", type="topic"), routing_key="mail")]
    with pytest.raises(startup.StartupError, match="'mail' is not described as a quorum queue"):
        startup.check_app(app)


def test_a_direct_exchange_is_refused() -> None:
    app = Celery("test", broker="amqp://192.0.2.1")
    arguments = {"x-queue-type": "quorum"}
    app.conf.task_queues = [Queue("mail", Exchange("mail", type="direct"), "mail", queue_arguments=arguments)]
    with pytest.raises(startup.StartupError, match="'mail' is bound to a direct exchange"):
        startup.check_app(app)


def test_queues_of_the_routing_module_are_taken() -> None:
    app = Celery("test", broker="amqp://192.0.2.1")
    app.conf.task_queues = routing.queues(("mail",))
    startup.check_app(app)


def test_a_worker_or_beat_checks_its_own_application_only() -> None:
    other, app = (Celery(name, broker="memory://", backend="cache+memory://") for name in ("other", "test"))
    checked: list[Celery] = []
    for one in (other, app):
        startup.at_start(one, checked.append)
    with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=20):
        assert checked == [app]
    beat_init.send(sender=beat.Service(other))  # what a beat does when it starts
    assert checked == [app, other]

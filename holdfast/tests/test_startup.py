"""A deployment that cannot keep the promise does not start, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, beat
from celery.contrib.testing.worker import start_worker
from celery.local import Proxy
from celery.signals import beat_init
from kombu import Exchange, Queue

from holdfast import routing, startup
from holdfast.app import install

if TYPE_CHECKING:
    from pathlib import Path

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
        timeout=240,
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


SAFE: dict[str, Any] = {
    "broker_url": "amqp://192.0.2.1",
    "broker_transport_options": {"confirm_publish": True},
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "broker_native_delayed_delivery_queue_type": "quorum",
    "task_queues": routing.queues(("mail",)),
    "task_default_queue": "mail",
}
CLASSIC = [Queue("mail", Exchange("tasks", type="topic"), routing_key="mail")]
DIRECT = [Queue("mail", Exchange("mail"), "mail", queue_arguments={"x-queue-type": "quorum"})]


def application(**changes: Any) -> Celery:
    app = Celery("test", set_as_current=False)
    app.conf.update(SAFE | changes)
    return app


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"task_queues": CLASSIC}, "HF209-quorum-queues: not quorum queues: mail"),
        ({"task_queues": DIRECT}, "HF210-direct-exchange: on a direct exchange: mail"),
        ({"task_acks_late": False}, "HF201-acks-late: task_acks_late is off"),
        ({"task_routes": {"a": {"queue": "typo"}}}, "HF209-quorum-queues: made as classic queues on first use: typo"),
    ],
)
def test_a_fatal_finding_is_refused_until_the_environment_allows_it(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(SystemExit, match=rule) as refusal:
        startup.refuse(application(**changes))

    monkeypatch.setenv(startup.OPT_OUT, str(refusal.value).rpartition(f"{startup.OPT_OUT}=")[2])
    startup.refuse(application(**changes))


def test_queues_of_the_routing_module_are_taken() -> None:
    startup.refuse(application())


def test_a_fatal_rule_that_cannot_judge_refuses_and_hides_no_other() -> None:
    unreadable = {"task_routes": [3], "task_acks_late": False}
    with pytest.raises(SystemExit) as refusal:
        startup.refuse(application(**unreadable))

    text = str(refusal.value)
    assert "HF111-route-by-key: could not judge: task_routes has 3" in text
    assert "HF201-acks-late: task_acks_late is off" in text
    assert f"{startup.OPT_OUT}=" in text


def test_a_warning_is_logged_until_the_environment_allows_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    startup.refuse(application(worker_prefetch_multiplier=8))
    assert [one for one in caplog.messages if one.startswith("HF204-prefetch: worker_prefetch_multiplier is 8.")]
    caplog.clear()
    monkeypatch.setenv(startup.OPT_OUT, "HF204")
    startup.refuse(application(worker_prefetch_multiplier=8))
    assert not [one for one in caplog.messages if "HF204" in one]


def test_an_address_of_the_environment_that_is_not_used_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    startup.refuse(application(result_backend="holdfast.results:DurableSentinelBackend+sentinel://own.example/0",
                               result_backend_transport_options={"master_name": "m"}))  # fmt: skip
    assert [one for one in caplog.messages if one.startswith("HOLDFAST_")] == [
        "HOLDFAST_BROKER_URL is set and not used: the application has a broker_url of its own",
        "HOLDFAST_RESULT_URL is set and not used: the application has a result_backend of its own",
    ]
    caplog.clear()
    startup.refuse(defaults_only())
    assert not [one for one in caplog.messages if one.startswith("HOLDFAST_")]


def defaults_only() -> Celery:
    return install(Celery("plain", set_as_current=False))


def test_a_warning_rule_that_cannot_judge_stops_no_worker() -> None:
    startup.refuse(application(worker_prefetch_multiplier="many"))


BROKEN_RULE = """
from celery import Celery
from celery_doctor.rules import Severity, settings_rules
from holdfast import startup
app = Celery("test", broker="memory://", backend="cache+memory://")
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)

@settings_rules("HF299-broken", Severity.FATAL, loss="", fix="")
def broken(_):
    raise {error}

startup.install(app)
{start}
"""
STARTS = {
    "worker": "app.worker_main(['worker', '--pool=solo'])",
    "beat": "app.start(['beat', '--schedule={folder}/schedule', '--pidfile='])",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize("error", ["ZeroDivisionError('crash')", "SystemExit(0)"])
def test_a_rule_that_crashes_does_not_open_the_gate(tmp_path: Path, start: str, error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_RULE.format(error=error, start=start.format(folder=tmp_path))],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "holdfast refuses to start:" in done.stderr
    assert "HF299-broken: could not judge" in done.stderr


def test_a_gate_that_breaks_as_a_whole_stays_closed(tmp_path: Path) -> None:
    app = Celery("broken", set_as_current=False)

    def fails(_: Celery) -> None:
        raise ValueError("no verdict")

    startup.at_start(app, fails)
    with pytest.raises(SystemExit, match="its check failed: ValueError: no verdict"):
        beat_init.send(sender=beat.Service(app, schedule_filename=str(tmp_path / "schedule")))


def test_an_application_behind_a_proxy_is_checked(tmp_path: Path) -> None:
    app = Celery("behind", set_as_current=False)
    checked: list[Celery] = []
    startup.at_start(app, lambda started: checked.append(started.app))
    beat_init.send(sender=beat.Service(Proxy(lambda: app), schedule_filename=str(tmp_path / "schedule")))
    assert checked == [app]


def test_a_worker_or_beat_checks_its_own_application_only() -> None:
    other, app = (Celery(name, broker="memory://", backend="cache+memory://") for name in ("other", "test"))
    checked: list[Celery] = []
    for one in (other, app):
        startup.at_start(one, lambda started: checked.append(started.app))
    with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=60):
        assert checked == [app]
    beat_init.send(sender=beat.Service(other))  # what a beat does when it starts
    assert checked == [app, other]

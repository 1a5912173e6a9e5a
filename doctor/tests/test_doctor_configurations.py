"""Configurations as public trackers show them, each reduced to its facts: what the doctor must say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from celery_doctor import State, examine, process_rules, supervisor, systemd
from celery_doctor.subject import Subject

if TYPE_CHECKING:
    from pathlib import Path

UNJUDGED = State.UNJUDGED.value
SETTINGS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("celery#3945: Sentinel without a name", {"result_backend": "sentinel://10.0.0.1:26379"}, {"HF312", "HF307"}),
    (
        "celery#3945: the name stands with the broker's options, results ask for it elsewhere",
        {
            "broker_url": "sentinel://a:26379;sentinel://b:26379;sentinel://c:26379",
            "broker_transport_options": {"master_name": "mq"},
            "result_backend": "sentinel://a:26379/0;sentinel://b:26379/0;sentinel://c:26379/0",
        },
        {"HF312"},
    ),
    ("celery#9901: no slashes in the backend", {"result_backend": "sentinel::p@r:26379/0"}, {f"HF303 {UNJUDGED}"}),
    (
        "openedx/configuration: routes by name of queue alone",
        {"broker_url": "amqp://r//", "task_routes": {"grades.tasks.*": "high_mem"}},
        {"HF209", "HF110"},
    ),
    (
        "celery#2951: one queue instead of a list",
        {"broker_url": "amqp://r//", "task_queues": Queue("cabs", Exchange("celery"), routing_key="cabs")},
        {f"HF209 {UNJUDGED}", f"HF210 {UNJUDGED}", "HF201"},
    ),
    (
        "celery#158: queues as a dictionary, on direct exchanges",
        {
            "broker_url": "amqp://r//",
            "task_queues": {"other": {"exchange": "other", "binding_key": "other"}},
            "task_routes": {"tasks.bar": {"queue": "other", "routing_key": "other"}},
        },
        {"HF209", "HF210"},
    ),
    (
        "celery#9685: the route of the page on quorum queues",
        {"broker_url": "amqp://r//", "task_routes": {"*": {"routing_key": "my-queue"}}},
        {"HF111"},
    ),
    (
        "celery#4296: a retry policy without end",
        {"broker_url": "amqp://r//", "task_publish_retry_policy": {"max_retries": None}},
        {"HF107"},
    ),
    (
        "kombu: an ETA beyond the visibility timeout",
        {"broker_url": "redis://r/0", "broker_transport_options": {"visibility_timeout": 60}, "task_time_limit": 3600},
        {"HF502", "HF503", "HF504"},
    ),
    (
        "celery#6760: long tasks on a connection that ends the worker",
        {"broker_url": "amqp://r//", "task_acks_late": True, "broker_heartbeat": 0},
        {"HF205", "HF207", "HF212", "HF216"},
    ),
    (
        "heroku: TLS that checks nothing",
        {
            "broker_url": "rediss://:p@r:6380?ssl_cert_reqs=CERT_NONE",
            "result_backend": "rediss://:p@r:6380?ssl_cert_reqs=CERT_NONE",
        },
        {"HF117", "HF313"},
    ),
    (
        "cookiecutter-django: a schedule in the database",
        {"broker_url": "redis://r/0", "beat_scheduler": "django_celery_beat.schedulers:DatabaseScheduler"},
        {"HF401", "HF404", "HF501"},
    ),
    ("django-celery-results", {"result_backend": "django-db"}, {"HF301"}),
    ("a database that is called redis", {"result_backend": "db+postgresql://u:p@redis/redis"}, {"HF301"}),
    ("airflow: SQS", {"broker_url": "sqs://", "result_backend": "db+postgresql://u:p@h/d"}, {"HF120"}),
    ("settings from the environment as text", {"worker_prefetch_multiplier": "10"}, {"HF204", "HF702"}),
    ("a switch from the environment as text", {"task_acks_late": "False"}, {"HF702"}),
    ("a limit with its unit", {"task_time_limit": "30m"}, {f"HF205 {UNJUDGED}"}),
    ("tests' setting in production", {"task_always_eager": True}, {"HF118"}),
    ("results in memory", {"result_backend": "cache+memory://"}, {"HF314"}),
    ("rpc results", {"result_backend": "rpc://"}, {"HF310"}),
    ("limits in a threads pool", {"worker_pool": "threads", "task_soft_time_limit": 30}, {"HF223"}),
    ("a broker as list, one of them", {"broker_url": ["amqp://r//"]}, {"HF105"}),
    ("pickle", {"accept_content": ["json", "pickle"]}, {"HF220"}),
]


@pytest.mark.parametrize(("settings", "expected"), [case[1:] for case in SETTINGS], ids=[case[0] for case in SETTINGS])
def test_settings(settings: dict[str, Any], expected: set[str]) -> None:
    app = Celery("patient", set_as_current=False)
    app.conf.update(settings)
    found = {
        one.rule.number + ("" if one.state is State.FOUND else f" {one.state.value}")
        for one in examine(app)
    }  # fmt: skip
    assert expected <= found


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"CELERY_TASK_ACKS_LATE": True}, ["CELERY_TASK_ACKS_LATE has no effect, the name is task_acks_late"]),
        ({"CELERY_TASK_ACKS_LATE": True, "task_acks_late": True}, []),
        ({"CELERY_TASK_ACKS_LATE": False, "CELERY_TASK_CONTEXT_MANAGERS": []}, []),
    ],
)
def test_names_with_a_prefix_that_celery_does_not_read(settings: dict[str, Any], found: list[str]) -> None:
    app = Celery("patient", set_as_current=False)
    app.conf.update(settings)
    assert [one.found for one in examine(app) if one.rule.number == "HF703"] == found


LATE = "killasgroup=true\nstopwaitsecs=60"
SUPERVISOR = [
    ("celery#4199: stopasgroup for a beat", "celery -A s beat\nstopasgroup=true\nautorestart=true", set()),
    (
        "celery#4200: the example of Celery's repository",
        "celery worker -A s -l INFO\nstopwaitsecs=600\nstopasgroup=true",
        {"HF601", "HF604"},
    ),
    (
        "openedx: INT because of the group",
        "celery worker -A s\nstopsignal=INT\nkillasgroup=true",
        {"HF603", "HF606"},
    ),
    ("celery#102: the default wait", "celery worker -A s\nkillasgroup=true\nstopsignal=QUIT", {"HF603"}),
    (
        "django-celery#142: su, activate, no exec",
        f"su - app -c '. bin/activate; cd s; python manage.py celeryd --autoscale=2,2 -EB >> log 2>&1'\n{LATE}",
        {"HF604", "HF609", "HF613"},
    ),
    ("two programs with a beat inside", f"celery -A s worker -B\nnumprocs=2\n{LATE}", {"HF604", "HF608"}),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in SUPERVISOR], ids=[case[0] for case in SUPERVISOR])
def test_supervisor_programs(tmp_path: Path, text: str, expected: set[str]) -> None:
    file = tmp_path / "s.conf"
    file.write_text(f"[program:s]\ncommand={text}\n", encoding="utf-8")
    assert _judge(supervisor.read(file, _subject())) == expected


MULTI = "Type=forking\nRestart=always\nExecStart=/bin/sh -c 'celery multi start w -A s'"
UNITS = [
    (
        "celery#6541: a worker in the foreground",
        "ExecStart=/v/bin/celery -A s worker\nRestart=always",
        {"HF601", "HF604"},
    ),
    (
        "celery#4613: multi with stopwait",
        f"{MULTI}\nExecStop=/bin/sh -c 'celery multi stopwait w'",
        {"HF604", "HF609"},
    ),
    (
        "multi without Type=forking",
        "Restart=always\nExecStart=/v/bin/celery multi start w -A s\nKillMode=mixed",
        {"HF604", "HF610"},
    ),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in UNITS], ids=[case[0] for case in UNITS])
def test_units(tmp_path: Path, text: str, expected: set[str]) -> None:
    file = tmp_path / "s.service"
    file.write_text(f"[Service]\n{text}\n", encoding="utf-8")
    assert _judge(systemd.read(file, _subject())) == expected


def _subject() -> Subject:
    app = Celery("s", broker="amqp://r//", set_as_current=False)
    app.conf.worker_soft_shutdown_timeout = 15
    app.conf.beat_schedule = {"tick": {"task": "t", "schedule": 1.0}}
    return Subject(app)


def _judge(programs: list[Any]) -> set[str]:
    return {one.rule.number for one in process_rules.examine(programs)}

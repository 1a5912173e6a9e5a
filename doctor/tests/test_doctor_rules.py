"""Every rule on settings trips on what it is there for, and only then."""

from __future__ import annotations

import math
import ssl
import sys
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, Task
from kombu import Exchange, Queue

from celery_doctor import all_rules, examine

TOPIC = Exchange("tasks", type="topic")
QUORUM = [Queue("q", TOPIC, routing_key="q", queue_arguments={"x-queue-type": "quorum"})]
CLASSIC = [Queue("q", TOPIC, routing_key="q")]
DIRECT = [Queue("q", Exchange("d"), routing_key="q", queue_arguments={"x-queue-type": "quorum"})]
TWO = [*QUORUM, Queue("r", TOPIC, routing_key="r", queue_arguments={"x-queue-type": "quorum"})]
RABBIT: dict[str, Any] = {
    "broker_url": "amqp://a//;amqp://b//;amqp://c//",
    "task_queues": QUORUM,
    "task_default_queue": "q",
}
REDIS: dict[str, Any] = {"broker_url": "redis://a"}
CONFIRMED = {"broker_transport_options": {"confirm_publish": True}}
STORE = {"result_backend": "redis://localhost"}
SERVICE = {"result_backend": "holdfast.results:DurableRedisBackend+rediss://cache.example.com:6379/0"}
SENTINEL = {"result_backend": "sentinel://a:1;sentinel://b:1;sentinel://c:1"}
SQS = {"broker_url": "https://sqs.eu-west-1.amazonaws.com", "broker_transport": "sqs"}  # the transport comes first
MASTER = {"master_name": "m"}
REDIS_SENTINEL = {"broker_url": "sentinel://a:1;sentinel://b:1;sentinel://c:1"}
EXPIRING = [Queue("q", TOPIC, routing_key="q", queue_arguments={"x-queue-type": "quorum", "x-message-ttl": 60000})]
SCHEDULE = {"beat_schedule": {"tick": {"task": "t", "schedule": 1.0}}}
REDBEAT = {**SCHEDULE, "beat_scheduler": "redbeat.RedBeatScheduler"}
ALWAYS = {"result_backend_always_retry": True, "result_backend_max_retries": 60}

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("HF101", RABBIT, RABBIT | CONFIRMED),
    ("HF102", RABBIT | CONFIRMED, RABBIT),
    ("HF103", RABBIT | {"broker_transport_options": {"confirm_timeout": 5}}, RABBIT | CONFIRMED),
    ("HF104", RABBIT, RABBIT | {"task_routes": (lambda *_, **__: {"mandatory": True},)}),
    ("HF105", {"broker_url": "amqp://a//"}, RABBIT),
    ("HF106", {"task_publish_retry": False}, {}),
    ("HF107", {"task_publish_retry_policy": {"max_retries": None}}, {"task_publish_retry_policy": {"max_retries": 8}}),
    ("HF108", {}, {"task_publish_retry_policy": {"max_retries": 8, "interval_step": 0.5, "interval_max": 3}}),
    ("HF109", {}, {"broker_pool_acquire_timeout": 10}),
    ("HF110", {}, {"task_create_missing_queues": False}),
    ("HF111", RABBIT | {"task_routes": {"*": {"routing_key": "q"}}}, RABBIT | {"task_routes": {"*": {"queue": "q"}}}),
    ("HF112", RABBIT | {"task_queues": TWO, "task_routes": {"*": {"queue": "q"}}}, RABBIT | {"task_queues": TWO}),
    ("HF113", RABBIT | {"task_default_delivery_mode": "transient"}, RABBIT),
    ("HF114", RABBIT, RABBIT | {"broker_transport_options": {"socket_settings": {18: 15000}}}),
    ("HF115", RABBIT | {"task_send_sent_event": True}, RABBIT),
    ("HF116", RABBIT | {"task_create_missing_queues": False, "task_routes": {"a.*": "mail"}}, RABBIT),
    (
        "HF117",
        RABBIT | {"broker_use_ssl": {"cert_reqs": ssl.CERT_NONE}},
        RABBIT | {"broker_use_ssl": {"ca_certs": "c"}},
    ),
    ("HF118", {"task_always_eager": True}, {}),
    ("HF119", {"broker_url": "memory://"}, RABBIT),
    ("HF120", {"broker_url": "sqs://"}, RABBIT),
    ("HF121", {}, RABBIT),
    ("HF201", {}, {"task_acks_late": True}),
    ("HF202", {"task_acks_late": True}, {"task_reject_on_worker_lost": True}),
    ("HF203", RABBIT, RABBIT | {"task_acks_on_failure": False}),
    ("HF204", {}, {"worker_prefetch_multiplier": 1}),
    ("HF205", {}, {"task_time_limit": 60}),
    ("HF206", {"task_time_limit": 60, "task_soft_time_limit": 60}, {"task_time_limit": 60, "task_soft_time_limit": 50}),
    ("HF207", RABBIT, RABBIT | {"broker_channel_error_retry": True}),
    ("HF208", {}, {"broker_connection_max_retries": None}),
    ("HF209", RABBIT | {"task_queues": CLASSIC}, RABBIT),
    ("HF210", RABBIT | {"task_queues": DIRECT}, RABBIT),
    ("HF211", RABBIT | {"broker_native_delayed_delivery_queue_type": "classic"}, RABBIT),
    ("HF212", RABBIT, RABBIT | {"broker_heartbeat": 10}),
    ("HF213", STORE | {"task_track_started": True}, STORE | ALWAYS | {"task_track_started": True}),
    ("HF214", STORE | {"worker_deduplicate_successful_tasks": True}, STORE),
    ("HF215", {}, {"worker_disable_rate_limits": True}),
    ("HF216", {"task_acks_late": True}, {"worker_cancel_long_running_tasks_on_connection_loss": True}),
    ("HF217", RABBIT, RABBIT | {"control_queue_exclusive": False, "control_queue_durable": True}),
    ("HF218", {}, {"worker_soft_shutdown_timeout": 15}),
    ("HF219", RABBIT | {"broker_heartbeat": 5, "worker_soft_shutdown_timeout": 15}, RABBIT | {"broker_heartbeat": 10}),
    ("HF220", {"accept_content": ["json", "pickle"]}, {"accept_content": ["json"]}),
    ("HF221", RABBIT, RABBIT | {"worker_consumer": "holdfast.consumer:Consumer"}),
    ("HF222", RABBIT, REDIS),
    ("HF223", {"worker_pool": "threads", "task_time_limit": 60}, {"worker_pool": "prefork", "task_time_limit": 60}),
    ("HF224", RABBIT | {"worker_detect_quorum_queues": False}, RABBIT),
    ("HF225", RABBIT | {"task_queues": EXPIRING}, RABBIT),
    ("HF226", {"worker_disable_rate_limits": True}, {}),
    ("HF301", STORE, STORE | ALWAYS),
    ("HF301", STORE, {"result_backend": "rpc://"}),
    ("HF302", STORE | {"result_backend_always_retry": True, "result_backend_max_retries": math.inf}, STORE | ALWAYS),
    ("HF304", STORE, STORE | {"redis_socket_timeout": 5}),
    ("HF305", STORE, STORE | {"redis_socket_connect_timeout": 2}),
    ("HF306", STORE, SENTINEL),
    ("HF306", SERVICE | {"result_backend_transport_options": {"durable_replicas": 0}}, SERVICE),
    ("HF307", {"result_backend": "sentinel://a:1"}, SENTINEL),
    ("HF308", SENTINEL, SENTINEL | {"result_backend_transport_options": {"sentinel_kwargs": {"socket_timeout": 1}}}),
    ("HF309", STORE, {"result_backend": "holdfast.results:DurableSentinelBackend+sentinel://a:1"}),
    ("HF309", SERVICE | {"result_backend_transport_options": {"durable_replicas": 0}}, SERVICE),
    ("HF310", {"result_backend": "rpc://"}, STORE),
    ("HF311", STORE, STORE | {"result_chord_join_timeout": 30}),
    ("HF312", SENTINEL, SENTINEL | {"result_backend_transport_options": MASTER}),
    ("HF313", STORE | {"redis_backend_use_ssl": {"ssl_cert_reqs": "none"}}, STORE),
    ("HF314", {"result_backend": "cache+memory://"}, STORE),
    ("HF315", {"result_backend": "django-db"}, STORE),
    ("HF401", SCHEDULE, REDBEAT),
    ("HF402", REDBEAT, REDBEAT | {"redbeat_lock_timeout": 30}),
    ("HF403", REDBEAT | {"redbeat_lock_timeout": 30, "beat_max_loop_interval": 20}, REDBEAT),
    ("HF404", REDBEAT, SCHEDULE | {"beat_scheduler": "holdfast.beat:Scheduler"}),
    ("HF405", {"beat_schedule": {"t": {"task": "t", "schedule": 0.05}}}, {"beat_schedule": {"t": {"schedule": 0.25}}}),
    ("HF407", REDBEAT | {"beat_schedule": {"tick": {"task": "t", "schedule": 1.0, "args": (uuid4(),)}}}, REDBEAT),
    ("HF408", {"beat_scheduler": "django_celery_beat.schedulers:DatabaseScheduler"}, REDBEAT),
    ("HF501", REDIS, RABBIT),
    ("HF502", REDIS | {"task_time_limit": 3600}, REDIS | {"task_time_limit": 60}),
    ("HF503", REDIS, REDIS | {"broker_transport_options": {"socket_timeout": 5}}),
    ("HF504", REDIS, {"broker_url": "sentinel://a:26379"}),
    ("HF505", REDIS_SENTINEL, REDIS_SENTINEL | {"broker_transport_options": MASTER}),
    ("HF506", {"broker_url": "sentinel://a:26379"}, REDIS_SENTINEL),
    ("HF507", SQS, SQS | {"task_time_limit": 1000}),
    ("HF702", {"worker_prefetch_multiplier": "1"}, {"worker_prefetch_multiplier": 1}),
    ("HF703", {"CELERY_TASK_ACKS_LATE": True}, {"CELERY_TASK_ACKS_LATE": True, "task_acks_late": True}),
]
SHOWN_ELSEWHERE = {"HF227", "HF303", "HF406", "HF701"}  # limits of a task, installed packages: tests below


def application(settings: dict[str, Any]) -> Celery:
    app = Celery("patient", set_as_current=False)
    app.conf.update(settings)

    @app.task(name="patient.work", shared=False, rate_limit="1/s")
    def work() -> None: ...

    return app


def found(settings: dict[str, Any]) -> set[str]:
    return {finding.rule.id[:5] for finding in examine(application(settings))}


@pytest.mark.parametrize(("rule", "unsafe", "safe"), CASES, ids=[case[0] for case in CASES])
def test_a_rule_trips_on_the_unsafe_setting_alone(rule: str, unsafe: dict[str, Any], safe: dict[str, Any]) -> None:
    assert rule in found(unsafe)
    assert rule not in found(safe)


def test_every_rule_on_settings_has_a_case() -> None:
    assert {rule.id[:5] for rule in all_rules()} == {case[0] for case in CASES} | SHOWN_ELSEWHERE


def test_a_task_that_acknowledges_early_is_named() -> None:
    app = application({"task_acks_late": True})

    @app.task(name="patient.early", shared=False, acks_late=False)
    def early() -> None: ...

    assert [one.found for one in examine(app) if one.rule.id.startswith("HF201")] == [
        "acks_late is off for patient.early"
    ]


def test_a_broker_that_it_does_not_ask_is_named_with_what_decides_there() -> None:
    for settings in (SQS, {"broker_url": "sqs://key:secret@"}):
        (text,) = [one.found for one in examine(application(settings)) if one.rule.id.startswith("HF120")]
        assert text == (
            "the broker is sqs; the doctor cannot judge its retention, redrive policy and dead-letter queue"
        )


def test_a_time_limit_of_a_task_counts_for_the_visibility_timeout() -> None:
    app = application(REDIS | {"task_time_limit": 60})

    @app.task(name="patient.long", shared=False, time_limit=4000)
    def long() -> None: ...

    assert "visibility timeout 3600 s, time limit 4000 s" in [one.found for one in examine(app)]


def test_the_cache_of_django_is_a_cache() -> None:
    assert "HF314" in found({"result_backend": "django-cache"})


@pytest.mark.parametrize(("own", "said"), [({"time_limit": 7200}, True), ({"time_limit": 50}, False),
                                           ({"time_limit": 7200, "soft_time_limit": 7000}, False)])  # fmt: skip
def test_a_long_limit_of_a_task_above_the_soft_limit_of_all_is_named(own: dict[str, Any], said: bool) -> None:
    app = application({"task_time_limit": 60, "task_soft_time_limit": 56})

    @app.task(name="patient.long", shared=False, **own)
    def long() -> None: ...

    found = [one.found for one in examine(app) if one.rule.id.startswith("HF227")]
    assert found == ["patient.long: time_limit 7200 s of its own, soft limit 56 s of the application"] * said


def test_a_base_class_with_its_own_retry_is_fine() -> None:
    class Own(Task):
        def retry(self, *args: Any, **kwargs: Any) -> Any:
            return super().retry(*args, **kwargs)

    app = Celery("own", task_cls=Own, set_as_current=False)
    app.conf.update(RABBIT)

    @app.task(name="own.work", shared=False)
    def work() -> None: ...

    assert "HF222" not in {one.rule.id[:5] for one in examine(app)}


def test_a_backend_without_connection_errors_lacks_the_extra() -> None:
    app = application(STORE)
    assert "HF303" not in {one.rule.id[:5] for one in examine(app)}
    app.backend.connection_errors = ()
    assert "HF303" in {one.rule.id[:5] for one in examine(app)}


def test_rows_of_django_celery_beat_that_no_scheduler_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django_celery_beat.models", ModuleType("django_celery_beat.models"))
    assert "HF406" in found(REDBEAT)
    for reads in ("django_celery_beat.schedulers:DatabaseScheduler", "holdfast.beat:Scheduler"):
        assert "HF406" not in found({"beat_scheduler": reads})


def test_old_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "HF701" not in found({})
    monkeypatch.setattr("celery_doctor.versions.metadata.version", lambda _: "5.6.3")
    assert "HF701" in found({})
    assert len([one for one in examine(application(REDIS)) if one.rule.number == "HF701"]) == 1


def test_a_stock_application_on_redis() -> None:
    stock = Celery("stock", broker="redis://localhost", backend="redis://localhost", set_as_current=False)

    assert {finding.rule.id[:5] for finding in examine(stock)} >= {
        "HF109", "HF110", "HF201", "HF202", "HF204", "HF205", "HF301", "HF304", "HF306", "HF309",
        "HF501", "HF502", "HF503", "HF504",
    }  # fmt: skip

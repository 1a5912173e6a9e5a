"""The doctor judges what Celery resolves, whatever form a setting has, and one rule never stops another."""

from __future__ import annotations

import re
import ssl
from typing import Any

import pytest
from celery import Celery, _state
from kombu import Exchange, Queue

from celery_doctor import Severity, State, all_rules, examine
from celery_doctor.rules import Rules, each, every_rule
from celery_doctor.subject import Subject
from celery_doctor.versions import number

QUORUM = {"x-queue-type": "quorum"}
MAIL = Queue("mail", Exchange("tasks", type="topic"), routing_key="mail", queue_arguments=QUORUM)
RABBIT: dict[str, Any] = {"broker_url": "amqp://a//;amqp://b//", "task_queues": [MAIL], "task_default_queue": "mail"}
SENTINELS = "sentinel://a:1/0;sentinel://b:1/0"


@pytest.fixture(autouse=True)
def tasks_of_no_other_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery gives every shared task of the process to every application, also those that other tests made."""
    own = {make for make in _state._on_app_finalizers if make.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", own)


def application(**settings: Any) -> Celery:
    app = Celery("patient", set_as_current=False)
    app.conf.update(settings)
    return app


def nothing() -> None:
    """A task that the tests give names and attributes to."""


def findings(app: Celery) -> dict[str, str]:
    return {one.rule.number: one.found if one.state is State.FOUND else one.state.value for one in examine(app)}


def judged(**settings: Any) -> dict[str, str]:
    return findings(application(**settings))


@pytest.mark.parametrize(
    ("variable", "value", "rule", "setting"),
    [
        ("CELERY_BROKER_URL", "redis://elsewhere", "HF501", {"broker_url": "amqp://"}),
        ("CELERY_BROKER_WRITE_URL", "redis://elsewhere", "HF501", {"broker_url": "amqp://"}),
        ("CELERY_RESULT_BACKEND", "redis://elsewhere", "HF306", {"result_backend": "db+sqlite://"}),
        ("CELERY_RESULT_BACKEND", "redis://elsewhere", "HF306", {}),
    ],
)
def test_the_environment_wins_as_in_celery(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, rule: str, setting: dict[str, Any]
) -> None:
    assert rule not in judged(**setting)
    monkeypatch.setenv(variable, value)
    assert rule in judged(**setting)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("amqp://a//", "amqp"), ("amqps://a//", "amqp"), ("pyamqp://a//", "amqp"), ("amqp://a//;amqp://b//;", "amqp"),
        (["amqp://a//", "amqp://redis//"], "amqp"), ("rabbit1", "amqp"), ("redis://rabbit", "redis"),
        ("rediss://a", "redis"), ("redis+socket:///run/redis.sock", "redis"),
        ("sentinel://a:1;sentinel://b:1;", "redis"),
        ("sqs://", "sqs"), ("memory://", "memory"), ("filesystem://", "memory"),
        ("sqla+postgresql://redis@a/b", "database"),
        ("confluentkafka://a", "confluentkafka"),
    ],
)  # fmt: skip
def test_brokers_are_told_by_their_scheme(url: Any, kind: str) -> None:
    assert Subject(application(broker_url=url)).broker == kind


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://a", "redis"), ("rediss://a?ssl_cert_reqs=required", "redis"), ("redis+socket:///r.sock", "redis"),
        (SENTINELS, "redis"), ("db+postgresql://u:p@redis.example/sentinel", "database"), ("db+sqlite://", "database"),
        ("database", "database"), ("rpc://", "rpc"), ("rpc", "rpc"), ("cache+memcached://redis/", "cache"),
        ("mongodb://redis/", "mongodb"), ("s3://redis", "s3"), ("file:///redis", "file"), ("disabled", ""), (None, ""),
        ("holdfast.results:DurableSentinelBackend+" + SENTINELS, "redis"),
        ("celery.backends.redis:RedisBackend+redis://a", "redis"),
    ],
)  # fmt: skip
def test_result_backends_are_told_by_their_scheme_or_class(url: Any, kind: str) -> None:
    assert Subject(application(result_backend=url)).results == kind


def test_a_trailing_separator_is_no_address() -> None:
    assert judged(result_backend=SENTINELS + ";")["HF307"] == "2 Sentinel(s) in result_backend"
    assert "HF105" in judged(broker_url="amqp://a//;")


def test_the_read_address_counts_too() -> None:
    assert "HF105" in judged(**RABBIT | {"broker_read_url": "amqp://a//"})
    assert "HF105" not in judged(**RABBIT | {"broker_url": "amqp://x", "broker_read_url": "amqp://a;amqp://b",
                                             "broker_write_url": ["amqp://a", "amqp://b"]})  # fmt: skip


MADE = "made as classic queues on first use: typo"
ROUTES: list[tuple[Any, str]] = [
    ({"*": "typo"}, MADE),
    ({"a.*": {"queue": "typo"}}, MADE),
    ([("a.*", {"queue": "typo"})], "could not judge"),  # Celery takes a tuple at the top for a route, and refuses it
    ([[("a.*", {"queue": "typo"})]], MADE),
    (
        ([("a.*", {"queue": "typo"}), (re.compile("b"), {"queue": "mail"})],),
        MADE,
    ),
    (({"b": "mail"}, {re.compile(r"a\..*"): {"queue": "typo"}}), MADE),
    ({"a": {"queue": Queue("own")}}, "not quorum queues: own"),
    ({"a": {"queue": "mail", "routing_key": "mail"}}, ""),
]


@pytest.mark.parametrize(("routes", "named"), ROUTES)
def test_queues_that_only_routes_name_are_found(routes: Any, named: str) -> None:
    assert judged(**RABBIT | {"task_routes": routes}).get("HF209", "").split(" (")[0] == named


@pytest.mark.parametrize(
    "router", [lambda *_, **__: None, "some.module:route", [lambda *_, **__: None, {"a": "mail"}], type("R", (), {
        "route_for_task": lambda *_: None})(), None, (), {}]
)  # fmt: skip
def test_routers_whose_answers_only_a_message_shows_are_no_fault(router: Any) -> None:
    assert not {"HF111", "HF112", "HF116", "HF209"} & judged(**RABBIT | {"task_routes": router}).keys()


def test_queues_named_by_tasks_and_the_schedule() -> None:
    beat = {"tick": {"task": "t", "schedule": 1.0, "options": {"queue": "ticks"}}}
    app = application(**RABBIT, beat_schedule=beat)
    app.task(name="t", queue="jobs", shared=False)(nothing)
    assert findings(app)["HF209"] == (
        "made as classic queues on first use: jobs (the task t), ticks (beat_schedule, tick)"
    )
    app.conf.task_create_missing_queue_type = "quorum"
    assert "HF209" not in findings(app)
    app.conf.task_create_missing_queues = False
    assert "HF116" in findings(app)


def test_a_described_queue_without_a_type_is_classic_whatever_the_default_queue_is() -> None:
    queue = Queue("mail", Exchange("tasks", type="topic"), routing_key="mail")
    assert "HF209" in judged(**RABBIT | {"task_queues": [queue], "task_default_queue_type": "quorum"})


TEXTS: list[tuple[str, Any, str, str]] = [
    ("worker_prefetch_multiplier", "1", "HF204", ""),
    ("worker_prefetch_multiplier", "10", "HF204", "worker_prefetch_multiplier is 10"),
    ("worker_prefetch_multiplier", "ten", "HF204", "could not judge"),
    ("task_time_limit", "600", "HF205", ""),
    ("task_time_limit", "soon", "HF205", "could not judge"),
    ("broker_heartbeat", "10", "HF212", ""),
    ("broker_heartbeat", "often", "HF212", "could not judge"),
    ("broker_connection_max_retries", "5", "HF208", "broker_connection_max_retries is 5"),
    ("worker_soft_shutdown_timeout", "30", "HF218", ""),
    ("task_publish_retry_policy", {"max_retries": "3"}, "HF108", "retries end after 0.4 s"),
    ("task_publish_retry_policy", {"max_retries": "many"}, "HF108", "could not judge"),
    ("task_publish_retry_policy", "often", "HF108", "could not judge"),
    ("broker_transport_options", "confirm_publish", "HF101", "could not judge"),
    ("task_acks_late", "true", "HF201", ""),
    ("task_routes", 5, "HF111", "could not judge"),
    ("task_routes", {"a": 5}, "HF111", "could not judge"),
]


@pytest.mark.parametrize(("name", "value", "rule", "expected"), TEXTS)
def test_values_of_another_type_are_judged_or_said_not_to_be(name: str, value: Any, rule: str, expected: str) -> None:
    found = judged(broker_url="amqp://", **{name: value})
    assert found.get(rule, "") == expected
    assert "HF110" in found  # the other rules have spoken all the same


def test_a_text_that_celery_takes_for_true_is_named() -> None:
    found = [one.found for one in examine(application(task_acks_late="false", worker_prefetch_multiplier="1"))]
    assert "task_acks_late is the text 'false', which counts as on" in found
    assert "worker_prefetch_multiplier is the text '1'" in found


@pytest.mark.parametrize("backend", ["no.such.module:Backend+redis://a", "sentinel::p@a:1/0", "nosuch://a"])
def test_a_backend_that_cannot_be_found_hides_no_other_rule(backend: str) -> None:
    found = judged(result_backend=backend)
    assert found["HF303"] == "could not judge"
    assert {"HF201", "HF202", "HF204"} <= found.keys()


def test_tls_that_checks_nothing() -> None:
    for name, value in (("cert_reqs", ssl.CERT_NONE), ("ssl_cert_reqs", "none"), ("cert_reqs", 0),
                        ("check_hostname", False)):  # fmt: skip
        assert "HF117" in judged(broker_use_ssl={name: value}), name
    assert "HF117" in judged(broker_url="rediss://a")
    assert "HF117" in judged(broker_url="rediss://a?ssl_cert_reqs=CERT_NONE")
    for name, value in (("ca_certs", "ca.pem"), ("cert_reqs", ssl.CERT_REQUIRED), ("ssl_cert_reqs", "required")):
        assert "HF117" not in judged(broker_use_ssl={name: value}), name
    assert "HF117" not in judged(broker_use_ssl=True)
    assert "HF313" in judged(result_backend="rediss://a?ssl_cert_reqs=none")
    assert "HF313" in judged(result_backend="redis://a", redis_backend_use_ssl={"ssl_cert_reqs": ssl.CERT_NONE})


@pytest.mark.parametrize("pool", ["threads", "solo", "eventlet", "celery.concurrency.thread:TaskPool"])
def test_limits_do_nothing_in_these_pools(pool: str) -> None:
    assert "task_time_limit" in judged(worker_pool=pool, task_time_limit=60)["HF223"]
    app = application(worker_pool=pool)
    app.task(name="slow", soft_time_limit=5, shared=False)(nothing)
    assert "soft_time_limit of slow" in findings(app)["HF223"]
    assert "HF223" not in judged(worker_pool=pool)


def test_gevent_keeps_the_hard_limit_alone() -> None:
    assert "HF223" not in judged(worker_pool="gevent", task_time_limit=60)
    assert "HF223" in judged(worker_pool="gevent", task_soft_time_limit=60)


def test_a_schedule_in_a_database_counts_without_entries_in_the_settings() -> None:
    found = judged(beat_scheduler="django_celery_beat.schedulers:DatabaseScheduler")
    assert {"HF401", "HF404"} <= found.keys()
    assert not {"HF401", "HF404"} & judged().keys()
    fix = next(rule.fix for rule in all_rules() if rule.number == "HF401")
    assert "django-celery-beat" in fix


def test_one_task_that_keeps_late_acknowledgement_off_is_named_whatever_its_form() -> None:
    off: tuple[Any, ...] = (False, 0)
    for value in off:
        app = application(task_acks_late=True, task_reject_on_worker_lost=True)
        app.task(name="early", acks_late=value, shared=False)(nothing)
        assert findings(app)["HF201"] == "acks_late is off for early"


def test_a_rule_that_ends_the_process_or_raises_is_a_finding_of_its_own() -> None:
    family = Rules("a test")

    @family("HF001-exits", Severity.FATAL, loss="", fix="")
    def exits(_: object) -> str:
        raise SystemExit(0)

    @family("HF002-raises", Severity.FATAL, loss="", fix="")
    def raises(_: object) -> str:
        raise RuntimeError("two\nlines")

    @family("HF003-half", Severity.FATAL, loss="", fix="")
    def half(_: object) -> Any:
        def look(thing: int) -> list[str]:
            return [f"{10 // thing}"]

        return each([1, 0, 5], look)

    @family("HF004-finds", Severity.FATAL, loss="", fix="")
    def finds(_: object) -> str:
        return "something"

    assert [(one.rule.number, one.state, one.found) for one in family.examine(None)] == [
        ("HF001", State.UNJUDGED, "SystemExit: 0"),
        ("HF002", State.UNJUDGED, "RuntimeError: two lines"),
        ("HF003", State.FOUND, "10"),
        ("HF003", State.FOUND, "2"),
        ("HF003", State.UNJUDGED, "ZeroDivisionError: integer division or modulo by zero"),
        ("HF004", State.FOUND, "something"),
    ]


def test_numbers_of_rules_are_told_once() -> None:
    numbers = [rule.number for rule in every_rule()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("text", "expected"), [("5.8.0rc1", (5, 8, 0)), ("4.3.6", (4, 3, 6)), ("5.10", (5, 10)), ("4.3.6+rc.2", (4, 3, 6))]
)
def test_one_reading_of_versions(text: str, expected: tuple[int, ...]) -> None:
    assert number(text) == expected

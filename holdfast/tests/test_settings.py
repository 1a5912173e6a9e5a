"""The settings hold what the guarantee needs, and a wrong environment is refused with the next step."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery.app.defaults import DEFAULTS
from celery.exceptions import ImproperlyConfigured

from holdfast import settings

ENVIRONMENT = {
    "HOLDFAST_BROKER_URL": "amqp://app:secret@192.0.2.11:5672/holdfast,amqp://app:secret@192.0.2.12:5672/holdfast",
    "HOLDFAST_RESULT_URL": "sentinel://app:s%40fe@192.0.2.31:26379/2,sentinel://app:s%40fe@192.0.2.32/2",
    "HOLDFAST_SENTINEL_MASTER": "results",
    "HOLDFAST_SENTINEL_USERNAME": "sentinel-user",
    "HOLDFAST_SENTINEL_PASSWORD": "sentinel-password",
}
SAFETY = {
    "beat_scheduler": "holdfast.beat:Scheduler",
    "broker_channel_error_retry": True,
    "broker_connection_max_retries": None,
    "broker_failover_strategy": "shuffle",
    "task_acks_late": True,
    "task_acks_on_failure": False,
    "task_acks_on_timeout": False,
    "task_create_missing_queues": False,
    "task_default_exchange_type": "topic",
    "task_default_queue_type": "quorum",
    "task_reject_on_worker_lost": True,
    "task_track_started": False,
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "worker_consumer": "holdfast.consumer:Consumer",
    "worker_deduplicate_successful_tasks": False,
    "worker_disable_rate_limits": True,
    "worker_prefetch_multiplier": 1,
}
# Read by Celery or redbeat, though Celery lists no default for them.
UNLISTED = {"redis_backend_health_check_interval"}


def load(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> dict[str, Any]:
    """Return the settings of the test environment with ``changes``; None removes a variable."""
    for name, value in (ENVIRONMENT | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return settings.read()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process whose only variables are these."""
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_importing_needs_no_environment() -> None:
    done = run("from holdfast import settings; settings.read")
    assert done.returncode == 0, done.stderr


def test_celery_reads_all_settings_from_the_module() -> None:
    code = (
        "from celery import Celery; from holdfast import settings; app = Celery();"
        "app.config_from_object('holdfast.settings');"
        "print([name for name, value in settings.read().items() if app.conf[name] != value])"
    )
    done = run(code, **ENVIRONMENT)
    assert done.stdout == "[]\n", done.stderr


def test_a_settings_module_of_an_application_takes_all_and_overwrites_one() -> None:
    code = "from holdfast.settings import *; task_time_limit = 60; print(task_time_limit, task_acks_late, broker_url)"
    done = run(code, **ENVIRONMENT)
    assert done.stdout == f"60 True {ENVIRONMENT['HOLDFAST_BROKER_URL'].replace(',', ';')}\n", done.stderr


def test_celery_shows_what_is_wrong_with_the_environment() -> None:
    done = run("from celery import Celery; a = Celery(); a.config_from_object('holdfast.settings'); a.conf.imports")
    assert "ImproperlyConfigured: HOLDFAST_BROKER_URL is not set" in done.stderr


def test_an_unknown_setting_is_an_attribute_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AttributeError, match="task_ack_late"):
        settings.task_ack_late  # noqa: B018 - that is the test


@pytest.mark.parametrize(("name", "value"), SAFETY.items())
def test_safety_critical_value(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    assert load(monkeypatch)[name] == value


def test_every_name_is_known_to_celery_redbeat_or_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    names = load(monkeypatch).keys() - DEFAULTS.keys() - UNLISTED
    unknown = {name for name in names if not name.startswith(("redbeat_", "holdfast_"))}
    assert not unknown


def test_publishes_wait_for_a_confirm_on_sockets_that_survive_a_hiccup(monkeypatch: pytest.MonkeyPatch) -> None:
    options = load(monkeypatch)["broker_transport_options"]
    assert options["confirm_publish"] is True
    assert options["socket_settings"][socket.TCP_USER_TIMEOUT] == 15_000


def test_a_soft_shutdown_ends_before_the_broker_gives_the_worker_up(monkeypatch: pytest.MonkeyPatch) -> None:
    values = load(monkeypatch)
    assert values["worker_soft_shutdown_timeout"] < 2 * values["broker_heartbeat"]


def test_the_standby_beat_takes_over_within_35_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    values = load(monkeypatch)
    assert values["redbeat_lock_timeout"] + values["beat_max_loop_interval"] <= 35
    assert values["redbeat_lock_timeout"] > 2 * values["beat_max_loop_interval"]


def test_beat_uses_the_primary_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    options = load(monkeypatch)["redbeat_redis_options"]
    assert options["sentinels"] == [("192.0.2.31", 26379), ("192.0.2.32", 26379)]
    assert (options["username"], options["password"], options["db"]) == ("app", "s@fe", 2)
    assert options["sentinel_kwargs"]["username"] == "sentinel-user"
    assert options["service_name"] == "results"


def test_beat_may_have_a_login_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    values = load(monkeypatch, HOLDFAST_SCHEDULE_URL="sentinel://beat:b%40d@192.0.2.33:26380/3")
    options = values["redbeat_redis_options"]
    assert (options["sentinels"], options["db"]) == ([("192.0.2.33", 26380)], 3)
    assert (options["username"], options["password"]) == ("beat", "b@d")
    assert values["result_backend"].endswith(ENVIRONMENT["HOLDFAST_RESULT_URL"].replace(",", ";"))


def test_results_go_to_the_durable_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    values = load(monkeypatch)
    name, _, url = values["result_backend"].partition("+")
    assert name == "holdfast.results:DurableSentinelBackend"
    assert url == ENVIRONMENT["HOLDFAST_RESULT_URL"].replace(",", ";"), "as Celery wants it"
    assert values["result_backend_transport_options"]["master_name"] == "results"
    assert values["result_backend_transport_options"]["durable_patience"] < values["task_time_limit"]


def test_a_service_of_one_address_needs_no_sentinel_and_no_certificate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("")
    changes: dict[str, str | None] = dict.fromkeys(ENVIRONMENT)
    changes |= {
        "HOLDFAST_BROKER_URL": "amqps://app:secret@mq.example.com:5671/shop",
        "HOLDFAST_RESULT_URL": "rediss://default:s%40fe@cache.example.com:6380/2",
        "HOLDFAST_TLS_CA": str(authority),
    }
    values = load(monkeypatch, **changes)
    assert values["result_backend"] == f"holdfast.results:DurableRedisBackend+{changes['HOLDFAST_RESULT_URL']}"
    options = values["result_backend_transport_options"]
    assert (options["durable_replicas"], options["durable_fsync"]) == (1, True), "no less than behind Sentinel"
    assert values["redis_backend_use_ssl"]["ssl_certfile"] is values["broker_use_ssl"]["certfile"] is None
    assert values["redis_backend_use_ssl"]["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    assert values["redbeat_redis_url"] == changes["HOLDFAST_RESULT_URL"]
    assert values["redbeat_redis_options"] == {"socket_timeout": settings.REDIS_TIMEOUT}

    less = load(monkeypatch, **changes, HOLDFAST_RESULT_REPLICAS="2", HOLDFAST_RESULT_FSYNC="no")
    options = less["result_backend_transport_options"]
    assert (options["durable_replicas"], options["durable_fsync"]) == (2, False)


def test_the_first_queue_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    values = load(monkeypatch, HOLDFAST_QUEUES="mail, reports")
    assert [queue.name for queue in values["task_queues"]] == ["mail", "reports"]
    assert values["task_default_queue"] == values["task_default_routing_key"] == "mail"
    assert values["task_routes"][0].default_queue == "mail"


def test_the_soft_limit_comes_before_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("1500", "100", "60", "2"):
        values = load(monkeypatch, HOLDFAST_TIME_LIMIT=limit)
        assert int(limit) * 0.5 <= values["task_soft_time_limit"] < values["task_time_limit"] == int(limit)


def test_on_redis_nothing_is_set_that_only_rabbitmq_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    values = load(monkeypatch, HOLDFAST_BROKER_URL="sentinel://app:secret@192.0.2.31:26379/1")
    options = values["broker_transport_options"]
    assert not {"confirm_publish", "socket_settings"} & options.keys()
    assert options["master_name"] == "results"
    assert options["visibility_timeout"] > values["task_time_limit"]
    assert options["socket_timeout"] > 10, "kombu waits 10 s in BRPOP"
    assert not any(queue.no_declare for queue in values["task_queues"]), "kombu keeps bindings in Redis"


def test_tls_is_for_every_connection_and_always_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("HOLDFAST_TLS_CA", "HOLDFAST_TLS_CERT", "HOLDFAST_TLS_KEY")
    files = {name: str(tmp_path / name) for name in names}
    for path in files.values():
        Path(path).touch()
    values = load(monkeypatch, HOLDFAST_BROKER_URL="amqps://app:secret@192.0.2.11:5671/holdfast", **files)
    assert values["broker_use_ssl"]["cert_reqs"] == ssl.CERT_REQUIRED
    assert "server_hostname" in values["broker_use_ssl"], "py-amqp compares no name without it"
    for options in (
        values["redis_backend_use_ssl"],
        values["redbeat_redis_use_ssl"],
        values["result_backend_transport_options"]["sentinel_kwargs"],
        values["redbeat_redis_options"]["sentinel_kwargs"],
        load(monkeypatch, HOLDFAST_BROKER_URL="sentinel://app:secret@192.0.2.31:26379/1", **files)["broker_use_ssl"],
    ):
        assert options["ssl_cert_reqs"] == ssl.CERT_REQUIRED
        assert options["ssl_check_hostname"] is True
        assert (options["ssl_ca_certs"], options["ssl_certfile"], options["ssl_keyfile"]) == tuple(files.values())


def test_an_authority_is_enough_for_tls_without_a_certificate_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "amqps://app:secret@192.0.2.11:5671/holdfast"
    options = load(monkeypatch, HOLDFAST_BROKER_URL=url, HOLDFAST_TLS_CA=__file__)["broker_use_ssl"]
    assert options["cert_reqs"] == ssl.CERT_REQUIRED
    assert (options["ca_certs"], options["certfile"], options["keyfile"]) == (__file__, None, None)


def test_without_tls_nothing_of_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    values = load(monkeypatch)
    assert not values["broker_use_ssl"]
    assert not values["redis_backend_use_ssl"]
    assert "ssl" not in values["result_backend_transport_options"]["sentinel_kwargs"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"HOLDFAST_BROKER_URL": None}, "HOLDFAST_BROKER_URL is not set"),
        ({"HOLDFAST_RESULT_URL": ""}, "HOLDFAST_RESULT_URL is not set"),
        ({"HOLDFAST_SENTINEL_MASTER": None}, "HOLDFAST_SENTINEL_MASTER is not set"),
        ({"HOLDFAST_BROKER_URL": "amqp://app:secret@a/x,http://app:secret@b/x"}, "URL 2 of 2"),
        ({"HOLDFAST_BROKER_URL": "amqp://app:secret@:5672/x"}, "URL 1 of 1"),
        ({"HOLDFAST_BROKER_URL": "amqp://app:secret@a:port/x"}, "URL 1 of 1"),
        ({"HOLDFAST_BROKER_URL": "amqp://app:secret@a/x;sentinel://app:secret@b/0"}, "mixes amqp and sentinel"),
        ({"HOLDFAST_RESULT_URL": "db+sqlite://app:secret@a/0"}, "sentinel://user:password@host:port/name"),
        ({"HOLDFAST_RESULT_URL": "redis://app:secret@a/x"}, "database of URL 1 of 1"),
        ({"HOLDFAST_RESULT_URL": "rediss://app:secret@a/0?ssl_cert_reqs=none"}, "URL 1 of 1 has options after ? or #"),
        ({"HOLDFAST_BROKER_URL": "amqps://app:secret@a/x?ssl_cert_reqs=CERT_NONE"}, "checks of certificates"),
        ({"HOLDFAST_SCHEDULE_URL": "sentinel://beat:secret@a/0?ssl_check_hostname=false"}, "has options after ?"),
        ({"HOLDFAST_RESULT_URL": "redis://app:secret@a/0,redis://app:secret@b/0"}, "a Redis without Sentinel is one"),
        ({"HOLDFAST_RESULT_URL": "redis://app:secret@a/0", "HOLDFAST_RESULT_REPLICAS": "-1"}, "REPLICAS is '-1'"),
        ({"HOLDFAST_RESULT_URL": "redis://app:secret@a/0", "HOLDFAST_RESULT_FSYNC": "never"}, "FSYNC is 'never'"),
        (
            {"HOLDFAST_RESULT_URL": "rediss://app:secret@a/0"},
            "HOLDFAST_RESULT_URL begins with rediss:// and HOLDFAST_TLS_CA is not set",
        ),
        (
            {
                "HOLDFAST_BROKER_URL": "amqps://app:secret@a/x",
                "HOLDFAST_RESULT_URL": "redis://app:secret@a/0",
                "HOLDFAST_TLS_CA": __file__,
            },
            "HOLDFAST_RESULT_URL begins with redis://, so a part of the traffic would be plain",
        ),
        ({"HOLDFAST_RESULT_URL": "sentinel://app:secret@a/0,sentinel://app:secret@b/x"}, "database of URL 2 of 2"),
        ({"HOLDFAST_SCHEDULE_URL": "sentinel://beat:secret@a/x"}, "HOLDFAST_SCHEDULE_URL: the database of URL 1 of 1"),
        ({"HOLDFAST_BROKER_URL": "sentinel://app:secret@a/holdfast"}, "allowed are numbers from 0"),
        ({"HOLDFAST_QUEUES": "default,,critical"}, "HOLDFAST_QUEUES is 'default,,critical'"),
        ({"HOLDFAST_QUEUES": "a,a"}, "different names"),
        ({"HOLDFAST_TIME_LIMIT": "0"}, "whole number of seconds above zero"),
        ({"HOLDFAST_BROKER_URL": "amqps://app:secret@a/x"}, "HOLDFAST_TLS_CA is not set"),
        ({"HOLDFAST_TLS_CERT": __file__, "HOLDFAST_TLS_KEY": __file__}, "HOLDFAST_TLS_CA is not set"),
        ({"HOLDFAST_TLS_CA": __file__}, "would be plain"),
        ({"HOLDFAST_TLS_CA": "/no/such/file"}, "HOLDFAST_TLS_CA is '/no/such/file', which cannot be read"),
        ({"HOLDFAST_BROKER_URL": "amqp://app:secret@a/x;amqps://app:secret@b/x"}, "mixes amqp and amqps"),
        (
            {"HOLDFAST_BROKER_URL": "amqps://a:secret@b/x", "HOLDFAST_TLS_CA": __file__, "HOLDFAST_TLS_KEY": __file__},
            "Only one of",
        ),
        ({"HOLDFAST_TIME_LIMIT": "2m"}, "HOLDFAST_TIME_LIMIT is '2m'"),
    ],
)
def test_a_wrong_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], part: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        load(monkeypatch, **changes)
    assert part in str(caught.value)
    assert ":secret@" not in str(caught.value), "a password must not end in a log"

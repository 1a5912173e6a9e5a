"""Rules on the result store."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from celery_doctor.publish import unverified
from celery_doctor.rules import Severity
from celery_doctor.rules import settings_rules as rule

if TYPE_CHECKING:
    from celery_doctor.subject import Subject


@rule(
    "HF301-always-retry",
    Severity.WARNING,
    loss="one failed write at the end of a finished task stores FAILURE, or nothing, and the message is acknowledged",
    fix="result_backend_always_retry = True, or the result backend of holdfast.results",
    sets={"result_backend_always_retry": "True", "result_backend_max_retries": "60"},
    see="celery#8588",
)
def always_retry(subject: Subject) -> str | None:
    reads_it = subject.results not in {"", "rpc"}  # rpc publishes its results
    if not reads_it or subject.durable_results or subject.get("result_backend_always_retry"):
        return None
    return "result_backend_always_retry is off"


@rule(
    "HF302-endless-retry",
    Severity.WARNING,
    loss="a store that stays down blocks the worker's main loop and every message forever",
    sets={"result_backend_max_retries": "60"},
    see="celery#9239",
)
def endless_retry(subject: Subject) -> str | None:
    endless = subject.get("result_backend_always_retry") and subject.number("result_backend_max_retries") == math.inf
    return "result_backend_max_retries has no end" if endless and not subject.durable_results else None


@rule(
    "HF303-redis-extra",
    Severity.FATAL,
    loss="the Redis backend does not recognise a lost connection, so it never retries a write",
    fix='pip install "celery[redis]" (it brings the package "packaging")',
    see="kombu#2524",
)
def redis_extra(subject: Subject) -> str | None:
    if not subject.redis_results:
        return None
    known = getattr(subject.app.backend, "connection_errors", ())
    return None if OSError in known else "the Redis backend knows no connection errors"


@rule(
    "HF304-socket-timeout",
    Severity.WARNING,
    loss="each command waits two minutes for a primary that is cut off, while the task's message is held",
    sets={"redis_socket_timeout": "5"},
    see="celery#6348",
)
def socket_timeout(subject: Subject) -> str | None:
    value = subject.number("redis_socket_timeout")
    if not subject.redis_results or (value and value <= 30):
        return None
    return f"redis_socket_timeout is {value:g} s" if value else "redis_socket_timeout is off"


@rule(
    "HF305-connect-timeout",
    Severity.WARNING,
    loss="a connection attempt to a dead address takes longer than the failover",
    sets={"redis_socket_connect_timeout": "2"},
)
def connect_timeout(subject: Subject) -> str | None:
    missing = subject.redis_results and not subject.get("redis_socket_connect_timeout")
    return "redis_socket_connect_timeout is not set" if missing else None


@rule(
    "HF306-one-redis",
    Severity.WARNING,
    loss="results, and with them chords, stop while that Redis is down, and are lost with its disk",
    fix='result_backend = "sentinel://s1:26379/0;sentinel://s2:26379/0;sentinel://s3:26379/0"',
)
def one_redis(subject: Subject) -> str | None:
    alone = subject.redis_results and not subject.sentinel_results and not subject.replicated_results
    return "results are in a single Redis" if alone else None


@rule(
    "HF307-one-sentinel",
    Severity.WARNING,
    loss="when that Sentinel is down, no client finds the primary",
    fix="name all Sentinels in result_backend, joined by ;",
    see="celery#5538",
)
def one_sentinel(subject: Subject) -> str | None:
    known = {store.place for store in subject.stores}
    return f"{len(known)} Sentinel(s) in result_backend" if subject.sentinel_results and len(known) < 3 else None


@rule(
    "HF308-sentinel-timeouts",
    Severity.ADVICE,
    loss="a client waits for a cut-off Sentinel without the timeouts of its other connections",
    fix='result_backend_transport_options = {"sentinel_kwargs": {"socket_timeout": 1, ...}, ...}',
)
def sentinel_timeouts(subject: Subject) -> str | None:
    if not subject.sentinel_results:
        return None
    given = subject.mapping("result_backend_transport_options").get("sentinel_kwargs") or {}
    return None if given.get("socket_timeout") else "sentinel_kwargs has no socket_timeout"


@rule(
    "HF309-unconfirmed-results",
    Severity.WARNING,
    loss="a result that the primary accepted and no replica has yet is lost in a failover; NOREPLICAS is not retried",
    fix='result_backend = "holdfast.results:DurableSentinelBackend+sentinel://..."',
)
def unconfirmed_results(subject: Subject) -> str | None:
    if subject.redis_results and not subject.replicated_results:
        return "a result counts as stored before a replica has it"
    return None


@rule(
    "HF310-rpc-results",
    Severity.WARNING,
    loss="results are messages to one client: lost with that client, and after one read",
    fix="a result backend that stores: Redis with Sentinel, or a database",
)
def rpc_results(subject: Subject) -> str | None:
    return "the result backend is rpc" if subject.results == "rpc" else None


@rule(
    "HF311-chord-join",
    Severity.ADVICE,
    loss="the chord's body is replaced by an error when the store fails over while the parts are collected",
    sets={"result_chord_join_timeout": "30"},
)
def chord_join(subject: Subject) -> str | None:
    value = subject.number("result_chord_join_timeout")
    short = subject.redis_results and value is not None and value < 10
    return f"result_chord_join_timeout is {value:g} s" if short else None


@rule(
    "HF312-sentinel-master",
    Severity.FATAL,
    loss="no result is stored or read: clients ask the Sentinels for a primary without a name",
    fix='result_backend_transport_options = {"master_name": "mymaster", ...}',
    see="celery#3945",
)
def sentinel_master(subject: Subject) -> str | None:
    named = subject.mapping("result_backend_transport_options").get("master_name")
    unnamed = subject.sentinel_results and not named
    return "result_backend_transport_options has no master_name" if unnamed else None


@rule(
    "HF313-unverified-results",
    Severity.WARNING,
    loss="an attacker in the network can read and change results, or impersonate the store",
    fix='redis_backend_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/path/ca.pem"}',
)
def unverified_results(subject: Subject) -> list[str]:
    if not subject.redis_results:
        return []
    found = [f"redis_backend_use_ssl has {text}" for text in unverified(subject.mapping("redis_backend_use_ssl"))]
    for store in {one.place: one for one in subject.stores}.values():
        found += [f"the URL of {store.place} has {text}" for text in unverified(store.options)]
    return found


@rule(
    "HF314-volatile-results",
    Severity.WARNING,
    loss="a cache loses results when it is full or restarts, and other processes may not see them",
    fix="a result backend that stores: Redis with Sentinel, or a database",
)
def volatile_results(subject: Subject) -> str | None:
    return "the result backend is a cache" if subject.results == "cache" else None


@rule(
    "HF315-django-results",
    Severity.WARNING,
    loss="only a closed connection is retried: a result is lost while the database is down, always_retry or not",
    fix="results in Redis with Sentinel, or a task that writes its outcome into its own transaction",
)
def django_results(subject: Subject) -> str | None:
    return "results are rows of django-celery-results" if subject.django_results else None

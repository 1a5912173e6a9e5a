"""Rules on Redis and SQS as the broker, both of which deliver again what is not acknowledged in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_doctor.rules import Severity
from celery_doctor.rules import settings_rules as rule
from celery_doctor.subject import as_number

if TYPE_CHECKING:
    from celery_doctor.subject import Subject


@rule(
    "HF501-redis-broker",
    Severity.WARNING,
    loss="a message that a dying worker holds, or that was written just before a failover, is lost with any settings",
    fix="RabbitMQ with quorum queues for tasks; keep Redis for results",
    see="celery#4354",
)
def redis_as_broker(subject: Subject) -> str | None:
    return "Redis is the broker" if subject.broker == "redis" else None


@rule(
    "HF502-visibility-timeout",
    Severity.WARNING,
    loss="a task, countdown or retry that takes longer than the visibility timeout runs again, every time it passes",
    fix='broker_transport_options = {"visibility_timeout": ...} above the longest task and countdown',
)
def visibility_timeout(subject: Subject) -> str | None:
    return _seen_again(subject, 3600) if subject.broker == "redis" else None


def _seen_again(subject: Subject, default: float) -> str | None:
    """Say which tasks outlast the visibility timeout, None when none can.

    Args:
        subject: the application.
        default: of the broker's transport in kombu, in seconds.
    """
    given = subject.transport.get("visibility_timeout")
    visible = as_number(given, "visibility_timeout of broker_transport_options", default) or 0
    general = subject.number("task_time_limit")
    limits = {task.name: as_number(task.time_limit, f"time_limit of {task.name}", general) for task in subject.tasks}
    if None in limits.values() or (not limits and general is None):
        return f"visibility timeout {visible:g} s, and tasks without a time limit"
    longest = max((limit or 0 for limit in limits.values()), default=general or 0)
    return f"visibility timeout {visible:g} s, time limit {longest:g} s" if visible <= longest else None


@rule(
    "HF503-redis-socket-timeout",
    Severity.WARNING,
    loss="delay() hangs on a connection whose peer is gone",
    sets={"broker_transport_options": {"socket_timeout": "5", "socket_connect_timeout": "2"}},
    see="celery#10302",
)
def redis_socket_timeout(subject: Subject) -> str | None:
    missing = subject.broker == "redis" and not subject.transport.get("socket_timeout")
    return "no socket_timeout in broker_transport_options" if missing else None


@rule(
    "HF504-one-redis-broker",
    Severity.WARNING,
    loss="all queues are in one process on one disk",
    fix='broker_url = "sentinel://s1:26379;sentinel://s2:26379;sentinel://s3:26379"',
)
def one_redis_broker(subject: Subject) -> str | None:
    return "one Redis is the broker" if subject.broker == "redis" and not _sentinels(subject) else None


def _sentinels(subject: Subject) -> set[str]:
    return {one.place for one in subject.write_brokers if one.scheme == "sentinel"}


@rule(
    "HF505-sentinel-master",
    Severity.FATAL,
    loss="nothing can be published or consumed: clients ask the Sentinels for a primary without a name",
    fix='broker_transport_options = {"master_name": "mymaster", ...}',
    see="kombu#1253",
)
def sentinel_master(subject: Subject) -> str | None:
    unnamed = _sentinels(subject) and not subject.transport.get("master_name")
    return "broker_transport_options has no master_name" if unnamed else None


@rule(
    "HF506-one-sentinel",
    Severity.WARNING,
    loss="when that Sentinel is down, no client finds the primary",
    fix="name all Sentinels in broker_url, joined by ;",
)
def one_sentinel(subject: Subject) -> str | None:
    known = _sentinels(subject)
    return f"{len(known)} Sentinel(s) in broker_url" if known and len(known) < 3 else None


@rule(
    "HF507-sqs-visibility-timeout",
    Severity.WARNING,
    loss="a task, countdown or retry that takes longer than the visibility timeout runs again, every time it passes",
    fix='broker_transport_options = {"visibility_timeout": ...} above the longest task and countdown; at most 43200',
)
def sqs_visibility_timeout(subject: Subject) -> str | None:
    return _seen_again(subject, 1800) if subject.broker == "sqs" else None

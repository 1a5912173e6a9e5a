"""Asks the running servers of an application; every rule that is not asked is listed as skipped, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_doctor import broker, logins, management, redis, sentinel  # noqa: F401 - the logins' rules are of their families
from celery_doctor.rules import (
    Finding,
    Rules,
    State,
    broker_rules,
    management_rules,
    reason,
    redis_rules,
    sentinel_rules,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_doctor.subject import Subject


def examine(subject: Subject, api: str | None, store: str | None) -> list[Finding]:
    """Look at the broker and the result store that an application names.

    Args:
        subject: the application.
        api: URL of RabbitMQ's management API, with a login; without one its rules are skipped.
        store: URL of the result store's primary with a login that may read its configuration.
    """
    return [*_rabbitmq(subject, api), *_redis(subject, store), *_sentinels(subject)]


def _rabbitmq(subject: Subject, url: str | None) -> Iterator[Finding]:
    if not subject.amqp:
        for family in (broker_rules, management_rules):
            yield from _skip(family, f"the broker is {subject.broker}")
        return
    running = broker.Broker(subject)
    yield from broker_rules.examine(running)
    running.close()
    if not url:
        yield from _skip(management_rules, "needs --management http://user:password@host:15672")
        return
    try:
        cluster = management.Cluster(subject, management.Management(url, subject.tls))
    except (OSError, ValueError) as error:
        yield from _skip(management_rules, reason(error), State.UNJUDGED)
        return
    yield from management_rules.examine(cluster)


def _redis(subject: Subject, url: str | None) -> Iterator[Finding]:
    stores: list[redis.Store] = []
    if subject.redis_results:
        stores.append(redis.result_store(subject, url))
    if subject.broker == "redis":
        stores.append(redis.BrokerStore(subject))
    for store in stores:
        yield from redis_rules.examine(store)
    if not stores:
        yield from _skip(redis_rules, "neither results nor tasks are in Redis")


def _sentinels(subject: Subject) -> Iterator[Finding]:
    groups = []
    if subject.sentinel_results:
        groups.append(sentinel.of_results(subject))
    if any(one.scheme == "sentinel" for one in subject.read_brokers):
        groups.append(sentinel.of_broker(subject))
    for group in groups:
        yield from sentinel_rules.examine(group)
    if not groups:
        yield from _skip(sentinel_rules, "no Sentinel is in the settings")


def _skip(family: Rules, why: str, state: State = State.SKIPPED) -> Iterator[Finding]:
    for rule in family:
        yield Finding(rule, why, state)

"""What the logins of an application may do on its running servers; nothing is tried, the servers are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from celery_doctor.rules import Severity, broker_rules, management_rules, redis_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_doctor.broker import Broker
    from celery_doctor.management import Cluster
    from celery_doctor.redis import Store
    from celery_doctor.subject import Subject

# What no application needs, and what it gives to whoever has stolen its login
TOO_MUCH = (
    (("CONFIG", "GET", "masterauth"), "read and change the configuration, passwords included"),
    (("FLUSHALL",), "delete everything"),
    (("PUBLISH", "__sentinel__:hello", "x"), "make Sentinel name another primary"),
    (("REPLICAOF", "NO", "ONE"), "turn the primary into a replica of another server"),
)
GUEST = "guest"  # of RabbitMQ, and of kombu where a URL names no user; everybody knows the password


def _user(subject: Subject) -> str:
    """Return the user of RabbitMQ with which an application publishes."""
    return unquote(subject.write_brokers[0].parts.username or "") or GUEST


@broker_rules(
    "HF805-guest",
    Severity.WARNING,
    loss="whoever reaches the broker knows this password: tasks can be read, removed and forged",
    fix="rabbitmqctl add_user NAME; set_permissions for what it needs; delete_user guest",
)
def guest(broker: Broker) -> str | None:
    connected = broker.connection and _user(broker.subject) == GUEST
    return "the broker lets the login guest in from here" if connected else None


@management_rules(
    "HF825-broker-login",
    Severity.WARNING,
    loss="whoever steals this login can delete the queues with their tasks, or make users",
    fix="rabbitmqctl set_user_tags NAME, with no tag; set_permissions with the names that it needs instead of .*",
)
def broker_login(cluster: Cluster) -> Iterator[str]:
    name = _user(cluster.subject)
    path = f"users/{quote(name, safe='')}"
    tags = (cluster.api.get(path) or {}).get("tags", ())
    if "administrator" in (tags.split(",") if isinstance(tags, str) else tags):  # a text before RabbitMQ 3.9
        yield f"the login {name} has the tag administrator"
    for one in cluster.api.get(f"{path}/permissions") or ():
        if {one["configure"], one["write"], one["read"]} == {".*"}:
            yield f"the login {name} may configure, write and read everything in {one['vhost']}"


@redis_rules(
    "HF910-redis-login",
    Severity.WARNING,
    loss="whoever steals this login has the whole server, not only the application's keys",
    fix="ACL SETUSER with the commands, keys and channels that the application needs, after resetchannels",
)
def redis_login(store: Store) -> str | None:
    may = [what for command, what in TOO_MUCH if store.allows(command)]
    return f"{store.role}: the login {store.user} may {'; '.join(may)}" if may else None


@redis_rules(
    "HF911-redis-default-user",
    Severity.WARNING,
    loss="whoever reaches the server needs no password",
    fix="ACL SETUSER default off, after every client has a login of its own",
)
def default_user(store: Store) -> str | None:
    if not store.has_password:
        store.info("server")  # it answers
        return f"{store.role}: the application logs in without a password"
    flags = store.rights("default")
    return f"{store.role}: the user default needs no password" if {"on", "nopass"} <= flags else None

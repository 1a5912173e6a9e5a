"""What the running Redis of the result store shows, with the application's own login."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from holdfast.doctor.rules import Finding, Rule, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.doctor.subject import Subject

OLDEST = (7, 2)  # WAITAOF came with it


def _rule(number: str, severity: Severity, loss: str, fix: str) -> Rule:
    return Rule(number, severity, loss, fix, "", lambda _: None)


VERSION = _rule("HF901-redis-version", Severity.WARNING, "a write cannot be confirmed by WAITAOF", "Redis 8.0 or newer")
NO_AOF = _rule(
    "HF902-append-only", Severity.FATAL, "a restart loses every result since the last snapshot", "appendonly yes"
)
FSYNC = _rule("HF903-append-fsync", Severity.WARNING, "a power cut loses the last second", "appendfsync always")
ALONE = _rule(
    "HF904-min-replicas",
    Severity.WARNING,
    "a primary that is cut off takes writes that the next one never had",
    "min-replicas-to-write 1, min-replicas-max-lag 10",
)
EVICTION = _rule(
    "HF905-eviction", Severity.FATAL, "results and chords vanish when memory is full", "maxmemory-policy noeviction"
)
NO_REPLICA = _rule("HF906-no-replica", Severity.WARNING, "a failover has nowhere to go", "start the replicas")
ALL = (VERSION, NO_AOF, FSYNC, ALONE, EVICTION, NO_REPLICA)
CONFIGURED: dict[str, tuple[Rule, Callable[[str], bool]]] = {
    "appendfsync": (FSYNC, lambda value: value == "always"),
    "min-replicas-to-write": (ALONE, lambda value: int(value) >= 1),
    "maxmemory-policy": (EVICTION, lambda value: value == "noeviction"),
}


def examine_redis(subject: Subject, url: str | None = None) -> Iterator[Finding | str]:
    """Look at the primary; what the login may not read comes as a text that says so.

    Args:
        subject: the application.
        url: of the primary with a login that may read its configuration; by default the application's own.

    Raises:
        redis.exceptions.RedisError: the store does not answer.
    """
    files = (subject.get("redis_backend_use_ssl") or {}) if url and url.startswith("rediss:") else {}
    client: Any = Redis.from_url(url, decode_responses=True, **files) if url else subject.app.backend.client
    server, replication = client.info("server"), client.info("replication")
    version = str(server["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        yield Finding(VERSION, f"Redis {version}")
    if replication.get("connected_slaves", 0) < 1:
        yield Finding(NO_REPLICA, "no replica is connected")
    persistence = client.info("persistence")
    if not persistence.get("aof_enabled"):
        yield Finding(NO_AOF, "aof_enabled is 0")
    for name, (rule, fine) in CONFIGURED.items():
        try:
            value = client.config_get(name).get(name)
        except (NoPermissionError, ResponseError) as error:
            yield f"{rule.id}: the login may not read the configuration ({error})"
            continue
        if value is not None and not fine(str(value)):
            yield Finding(rule, f"{name} is {value}")

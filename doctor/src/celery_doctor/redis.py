"""What a running Redis shows, as result store or broker, to the application's own login or one that sees more."""

from __future__ import annotations

import json
from functools import cached_property
from time import time
from typing import TYPE_CHECKING, Any

from celery_doctor.consume import names
from celery_doctor.rules import NotAllowedError, Severity
from celery_doctor.rules import redis_rules as rule
from celery_doctor.versions import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_doctor.subject import Subject

# The lowest version of each line with the known fixes, and packages of distributions that have them: compose/pins.yaml
FIXED = ((8, 2, 9), (8, 4, 6), (8, 6, 6), (8, 8, 2), (8, 10, 1))
PACKAGES = ("8.0.6-3",)
VALKEY_FIXED = ((9, 1, 2),)
MANY = 1000  # overdue tasks; more are not counted
SECONDS = 10  # that the server has for each answer


class Store:
    """A Redis primary that an application uses.

    Args:
        role: how messages name it: ``result store`` or ``broker``.
        connect: returns a client.
        own: returns the application's own client, when the other one has another login; it is not connected.
    """

    def __init__(self, role: str, connect: Callable[[], Any], own: Callable[[], Any] | None = None) -> None:
        self.role = role
        self._connect = connect
        self._own = own
        self._kept: dict[str, Any] = {}

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of INFO.

        Raises:
            NotAllowedError: the login may not ask.
            redis.exceptions.RedisError: the server does not answer.
        """
        found: dict[str, Any] = self._ask(section, lambda client: client.info(section))
        return found

    def configured(self, name: str) -> str | None:
        """Return a value of the configuration, None when the server does not know the name; errors as for ``info``."""
        found = self._ask(f"config {name}", lambda client: client.config_get(name).get(name))
        return None if found is None else str(found)

    @property
    def user(self) -> str:
        """The application's user, also where another login asks."""
        return str(self._login.get("username") or "default")

    @property
    def has_password(self) -> bool:
        """Whether the application gives one."""
        return bool(self._login.get("password") or self._login.get("credential_provider"))

    def allows(self, command: tuple[str, ...]) -> bool:
        """Tell whether the application's user may run a command; it is not run. Errors as for ``info``."""
        asked = ("ACL", "DRYRUN", self.user, *command)
        answer = self._ask(" ".join(asked), lambda client: client.execute_command(*asked))
        return answer in (True, "OK", b"OK")  # else a sentence that says what is missing

    def rights(self, user: str) -> set[str]:
        """Return the flags of a user, such as ``on`` and ``nopass``; errors as for ``info``."""
        found = self._ask(f"acl getuser {user}", lambda client: client.acl_getuser(user)) or {}
        flags = found.get("flags", found.get(b"flags", ()))
        return {flag.decode() if isinstance(flag, bytes) else str(flag) for flag in flags}

    @cached_property
    def _login(self) -> dict[str, Any]:
        client = self._own() if self._own else self._client
        found: dict[str, Any] = client.connection_pool.connection_kwargs
        return found

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    def _ask(self, key: str, question: Callable[[Any], Any]) -> Any:
        """Ask once; an error is kept like an answer, so that a server that is away is waited for once."""
        from redis.exceptions import ConnectionError as AwayError  # noqa: PLC0415 - only for Redis
        from redis.exceptions import NoPermissionError, ResponseError  # noqa: PLC0415 - as above

        if "away" in self._kept:
            raise self._kept["away"]
        if key not in self._kept:
            try:
                self._kept[key] = question(self._client)
            except (NoPermissionError, ResponseError) as error:
                if isinstance(error, AwayError):
                    raise
                self._kept[key] = NotAllowedError(
                    f"{self.role}: the login may not read this ({error}); name one that may by --redis URL"
                )
            except Exception as error:
                self._kept["away"] = error
                raise
        if isinstance(self._kept[key], Exception):
            raise self._kept[key]
        return self._kept[key]


class BrokerStore(Store):
    """The Redis that is the broker of an application.

    Args:
        subject: the application.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        super().__init__("broker", lambda: _hurried(self._channel.client))

    @property
    def visible(self) -> float:
        """For how many seconds a delivered task is left alone."""
        return float(self._channel.visibility_timeout)

    def overdue(self) -> list[tuple[str, float]]:
        """Return tags and ages, in seconds, of the tasks whose visibility timeout is over, the oldest first.

        At most ``MANY``; errors as for ``info``.
        """
        channel, now = self._channel, time()
        # the command is chosen as one that no kombu gives the prefix to: which get it differs from release to release
        key = f"{getattr(channel, 'global_keyprefix', '')}{channel.unacked_index_key}"
        end = now - self.visible
        found = self._ask("overdue", lambda client: client.zrangebyscore(key, 0, end, 0, MANY, withscores=True))
        return [(tag, now - since) for tag, since in found]

    def task(self, tag: str) -> str:
        """Return the name of a delivered task, an empty text when it is settled; errors as for ``info``."""
        kept = self._ask(f"unacked {tag!r}", lambda client: client.hget(self._channel.unacked_key, tag))
        headers = json.loads(kept)[0].get("headers", {}) if kept else {}
        return str(headers.get("task") or "") if kept else ""

    @cached_property
    def _channel(self) -> Any:
        connection: Any = self._subject.app.connection_for_read()
        connection.transport_options = {**connection.transport_options, "max_retries": 1}  # by default it tries forever
        return connection.default_channel


def result_store(subject: Subject, url: str | None = None) -> Store:
    """Return the result store of an application.

    Args:
        subject: the application.
        url: of the primary with a login that may read its configuration; by default the application's own.
    """

    def connect() -> Any:
        from redis import Redis  # noqa: PLC0415 - only for Redis

        if url:
            files = (subject.get("redis_backend_use_ssl") or {}) if url.startswith("rediss:") else {}
            return Redis.from_url(url, decode_responses=True, socket_timeout=SECONDS, **files)
        return _hurried(subject.app.backend.client)

    return Store("result store", connect, lambda: subject.app.backend.client)


def _hurried(client: Any) -> Any:
    """Bound the waits of a client whose own limits may be minutes, or none."""
    client.connection_pool.connection_kwargs.update(socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
    return client


def _any_of(versions: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(".".join(map(str, one)) for one in versions)


@rule(
    "HF901-redis-version",
    Severity.WARNING,
    loss="before 7.2 no WAITAOF confirms a write; without the fixes of 2026 a client can take over the server",
    fix=f"Redis {_any_of(FIXED)} or newer in its line, or Valkey {_any_of(VALKEY_FIXED)} or newer",
)
def version(store: Store) -> str | None:
    server = store.info("server")
    if "valkey_version" in server:  # then redis_version is that of the Redis whose commands it knows
        found = str(server["valkey_version"])
        return None if has_fixes(number(found), VALKEY_FIXED) else f"{store.role}: Valkey {found}"
    found = str(server["redis_version"])
    for package in PACKAGES:
        if package.partition("-")[0] == found:
            raise NotAllowedError(
                f"{store.role}: Redis {found} has the fixes as Debian's package {package} or newer, the official one "
                "lacks them; INFO does not say which one this is"
            )
    return None if has_fixes(number(found)) else f"{store.role}: Redis {found}"


def has_fixes(found: tuple[int, ...], fixed: tuple[tuple[int, ...], ...] = FIXED) -> bool:
    """Return whether a version of Redis, or of Valkey, has the known fixes.

    Args:
        found: its three numbers.
        fixed: the lowest version of each line that has them; newer lines have them, too.
    """
    return found[:2] > fixed[-1][:2] or any(found[:2] == low[:2] and found >= low for low in fixed)


@rule(
    "HF902-append-only",
    Severity.FATAL,
    loss="a restart loses everything since the last snapshot: results, and on a broker tasks",
    fix="appendonly yes",
)
def append_only(store: Store) -> str | None:
    return None if store.info("persistence").get("aof_enabled") else f"{store.role}: aof_enabled is 0"


@rule("HF903-append-fsync", Severity.WARNING, loss="a power cut loses the last second", fix="appendfsync always")
def append_fsync(store: Store) -> str | None:
    value = store.configured("appendfsync")
    return None if value in (None, "always") else f"{store.role}: appendfsync is {value}"


@rule(
    "HF904-min-replicas",
    Severity.WARNING,
    loss="a cut-off primary accepts writes that the next primary never gets",
    fix="min-replicas-to-write 1, min-replicas-max-lag 10",
)
def min_replicas(store: Store) -> str | None:
    found = store.info("replication")  # of a primary; it counts the good replicas only where some are asked for
    missing = found.get("role") == "master" and "min_slaves_good_slaves" not in found
    return f"{store.role}: min-replicas-to-write or min-replicas-max-lag is 0" if missing else None


@rule(
    "HF905-eviction",
    Severity.FATAL,
    loss="keys are evicted when memory is full: results and chords, and on a broker tasks",
    fix="maxmemory-policy noeviction",
)
def eviction(store: Store) -> str | None:
    value = store.info("memory").get("maxmemory_policy")
    return None if value in (None, "noeviction") else f"{store.role}: maxmemory-policy is {value}"


@rule("HF906-no-replica", Severity.WARNING, loss="no replica can take over", fix="start the replicas")
def no_replica(store: Store) -> str | None:
    count = store.info("replication").get("connected_slaves", 0)
    return None if count else f"{store.role}: no replica is connected"


@rule(
    "HF912-overdue-tasks",
    Severity.WARNING,
    loss="a task that still runs runs a second time; one whose worker died waits, and no worker has put it back",
    fix="a visibility_timeout above the longest task and countdown, and running workers: the first one puts such tasks"
    " back within 5 minutes",
    see="celery#4354",
)
def overdue_tasks(store: Store) -> str | None:
    if not isinstance(store, BrokerStore):
        return None
    found = store.overdue()
    if not found:
        return None
    tasks = names({store.task(tag) for tag, _ in found[:3]} - {""})
    oldest = f"the oldest since {found[0][1]:.0f} s{f' ({tasks})' if tasks else ''}"
    many = f"{len(found)}{' or more' if len(found) == MANY else ''}"
    return f"{store.role}: {many} delivered and not acknowledged within {store.visible:g} s, {oldest}"

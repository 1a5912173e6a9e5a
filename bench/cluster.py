"""Quorum queues of the benchmark's own on the running local stack."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import urllib.request
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from redis import Redis
from redis.sentinel import Sentinel

from holdfast.audit.store import PREFIX
from holdfast.environment import split_urls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

QUEUE = os.environ.get("HOLDFAST_QUEUES", "bench")  # a client's own, as the benchmark tells it
EXCHANGE = "tasks"
_VHOST = "holdfast"
_NEAR = 0.75  # of the memory limit; what is said of memory is up to five seconds old
ROOT = Path(__file__).resolve().parents[1]


@cache
def environment() -> dict[str, str]:
    """Return what every client and worker finds in its environment.

    The broker's user is the one that may consume from the benchmark's queues. ``BENCH_AMQP`` and ``BENCH_REDIS`` are
    the addresses for those who do not know Sentinel.
    """
    made = _made()
    found: dict[str, str] = made["environment"]["worker"]
    admin = f"admin:{_password()}"
    nodes = [urlsplit(url) for url in split_urls(found["HOLDFAST_BROKER_URL"])]
    urls = [urlunsplit(url._replace(netloc=f"{admin}@{url.netloc.rpartition('@')[2]}")) for url in nodes]
    addresses, login = sentinels(found)
    host, port = Sentinel(addresses, sentinel_kwargs=login).discover_master(found["HOLDFAST_SENTINEL_MASTER"])
    redis_login = f"admin:{quote(made['passwords']['REDIS_ADMIN_PASSWORD'], safe='')}"
    return found | {
        "HOLDFAST_BROKER_URL": ",".join(urls),
        "HOLDFAST_IMPORTS": "",
        "HOLDFAST_AUDIT_SHARE": "0",  # the stack's beat would miss what goes with the benchmark's queues
        "BENCH_AMQP": ",".join(urls),
        "BENCH_REDIS": f"redis://{redis_login}@{host}:{port}/0",
    }


def sentinels(found: Mapping[str, str]) -> tuple[list[tuple[str, int]], dict[str, str]]:
    """Return the addresses of the Sentinels and their login.

    Args:
        found: the environment of a worker.
    """
    urls = [urlsplit(url) for url in split_urls(found["HOLDFAST_RESULT_URL"])]
    login = {"username": found["HOLDFAST_SENTINEL_USERNAME"], "password": unquote(found["HOLDFAST_SENTINEL_PASSWORD"])}
    return [(str(url.hostname), url.port or 26379) for url in urls], login


@contextmanager
def queue(name: str = QUEUE) -> Iterator[None]:
    """Declare a queue as the definitions declare a task queue; delete it with its messages at the end.

    Args:
        name: of the queue and of its key at the exchange.
    """
    arguments = {"x-queue-type": "quorum"}
    api("PUT", f"queues/{_VHOST}/{name}", {"durable": True, "arguments": arguments})
    api("POST", f"bindings/{_VHOST}/e/{EXCHANGE}/q/{name}", {"routing_key": name})
    try:
        yield
    finally:
        drop(name)


def drop(*names: str) -> None:
    """Delete queues with their messages, if they are there."""
    for name in names:
        with suppress(HTTPError):
            api("DELETE", f"queues/{_VHOST}/{name}")


def forget_notes() -> None:
    """Delete the notes of the running audit: it would miss the messages that went with a queue."""
    with Redis.from_url(environment()["BENCH_REDIS"]) as client:
        for key in client.scan_iter(f"{PREFIX}*"):
            client.delete(key)


def names(name: str) -> tuple[str, ...]:
    """Return a queue's name, and those of the queues that dramatiq adds to it."""
    return (name, f"{name}.DQ", f"{name}.XQ")


def require_quorum(name: str) -> None:
    """Refuse to measure a queue that is not replicated.

    Raises:
        SystemExit: it is of another type.
    """
    kind = state(name)["type"]
    if kind != "quorum":
        raise SystemExit(
            f"the queue {name} is of the type {kind!r}; only quorum queues are compared: see who declares it"
        )


def state(name: str) -> dict[str, Any]:
    """Return what the management API says of a queue; its counts are up to five seconds old."""
    found: dict[str, Any] = api("GET", f"queues/{_VHOST}/{name}")
    return found


def purge(name: str) -> None:
    """Empty a queue, so that every measurement starts alike."""
    api("DELETE", f"queues/{_VHOST}/{name}/contents")


def pressed() -> bool:
    """Tell whether a broker is near its memory limit, above which it blocks publishers."""
    return any(node["mem_used"] > _NEAR * node["mem_limit"] for node in api("GET", "nodes"))


def versions() -> dict[str, str]:
    """Return the versions of the broker that answers."""
    overview = api("GET", "overview")
    return {"rabbitmq": overview["rabbitmq_version"], "erlang": overview["erlang_version"]}


def api(method: str, path: str, body: object = None) -> Any:
    """Call the management API of the first node."""
    request = urllib.request.Request(
        f"http://127.0.0.1:15672/api/{path}",
        None if body is None else json.dumps(body).encode(),
        {"Authorization": "Basic " + base64.b64encode(f"admin:{_password()}".encode()).decode()},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
        content = answer.read()
    return json.loads(content) if content else None


@cache
def _made() -> dict[str, Any]:
    """Return the stack's passwords and environments."""
    done = subprocess.run(
        [ROOT / "scripts/passwords", "--json"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"The benchmark runs against the local stack.\n{done.stderr}")
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def _password() -> str:
    password: str = _made()["passwords"]["RABBITMQ_ADMIN_PASSWORD"]
    return password

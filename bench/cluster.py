"""A quorum queue of the benchmark's own on the running local stack."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.request
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from holdfast.environment import split_urls

if TYPE_CHECKING:
    from collections.abc import Iterator

QUEUE = "bench"
EXCHANGE = "tasks"
_VHOST = "holdfast"
ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """Return a worker's environment, with the broker user that may consume from the benchmark's queue."""
    found: dict[str, str] = _made()["environment"]["worker"]
    login = f"admin:{_password()}"
    nodes = [urlsplit(url) for url in split_urls(found["HOLDFAST_BROKER_URL"])]
    urls = [urlunsplit(url._replace(netloc=f"{login}@{url.netloc.rpartition('@')[2]}")) for url in nodes]
    return found | {"HOLDFAST_BROKER_URL": ",".join(urls), "HOLDFAST_QUEUES": QUEUE, "HOLDFAST_IMPORTS": ""}


@contextmanager
def queue() -> Iterator[None]:
    """Declare the queue as the definitions declare a task queue; delete it with its messages at the end."""
    arguments = {"x-queue-type": "quorum"}
    api("PUT", f"queues/{_VHOST}/{QUEUE}", {"durable": True, "arguments": arguments})
    api("POST", f"bindings/{_VHOST}/e/{EXCHANGE}/q/{QUEUE}", {"routing_key": QUEUE})
    try:
        yield
    finally:
        api("DELETE", f"queues/{_VHOST}/{QUEUE}")


def purge() -> None:
    """Empty the queue, so that every measurement starts alike."""
    api("DELETE", f"queues/{_VHOST}/{QUEUE}/contents")


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
    done = subprocess.run([ROOT / "scripts/passwords", "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The benchmark runs against the local stack.\n{done.stderr}")
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def _password() -> str:
    password: str = _made()["passwords"]["RABBITMQ_ADMIN_PASSWORD"]
    return password

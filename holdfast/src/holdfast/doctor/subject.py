"""The application as the rules see it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from celery import Celery

KINDS = {
    "amqp": "amqp", "amqps": "amqp", "pyamqp": "amqp", "librabbitmq": "amqp",
    "redis": "redis", "rediss": "redis", "sentinel": "redis", "valkey": "redis",
}  # fmt: skip


class Subject:
    """Answers what several rules ask of one application.

    Args:
        app: any Celery application.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        app.finalize()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting, ``default`` when neither the application nor Celery knows it."""
        return self.app.conf.get(name, default)

    @cached_property
    def broker_urls(self) -> list[str]:
        """The broker's URLs, split and without empty ones."""
        url = self.get("broker_write_url") or self.get("broker_url") or "amqp://"
        parts = url.split(";") if isinstance(url, str) else [part for one in url for part in str(one).split(";")]
        return [part for part in parts if part]

    @property
    def broker(self) -> str:
        """``amqp``, ``redis``, or the scheme of another broker."""
        scheme = urlsplit(self.broker_urls[0]).scheme or "amqp"
        return KINDS.get(scheme, scheme)

    @property
    def amqp(self) -> bool:
        """Whether the broker is RabbitMQ."""
        return self.broker == "amqp"

    @property
    def tls(self) -> dict[str, Any] | None:
        """``broker_use_ssl`` when it names an authority, None without one."""
        found = self.get("broker_use_ssl")
        return {"certfile": None, **found} if isinstance(found, dict) and "ca_certs" in found else None

    @cached_property
    def backend_url(self) -> str:
        """The result backend as it is configured, an empty text without one."""
        return str(self.get("result_backend") or "")

    @property
    def redis_results(self) -> bool:
        """Whether results are in Redis, alone or behind Sentinel."""
        return "redis" in self.backend_url or "sentinel" in self.backend_url

    @property
    def durable_results(self) -> bool:
        """Whether the layer's result backend is used."""
        return "holdfast.results" in self.backend_url

    @property
    def durable_publisher(self) -> bool:
        """Whether the layer's publisher is installed."""
        return type(self.app.amqp).__module__.startswith("holdfast.publisher")

    @property
    def durable_consumer(self) -> bool:
        """Whether the layer's consumer is used."""
        return str(self.get("worker_consumer", "")).startswith("holdfast.")

    @property
    def durable_control(self) -> bool:
        """Whether the layer's remote control is used, whose queues a reconnect cannot meet."""
        return type(self.app.control).__module__.startswith("holdfast.")

    @cached_property
    def transport(self) -> dict[str, Any]:
        """``broker_transport_options``."""
        return dict(self.get("broker_transport_options") or {})

    @cached_property
    def routes(self) -> list[Any]:
        """The entries of ``task_routes``: dictionaries and functions."""
        routes = self.get("task_routes") or ()
        return list(routes) if isinstance(routes, list | tuple) else [routes]

    @cached_property
    def queues(self) -> dict[str, Any]:
        """The queues the application describes, by name."""
        return dict(self.app.amqp.queues)

    @cached_property
    def tasks(self) -> list[Any]:
        """The application's own tasks."""
        return [task for name, task in self.app.tasks.items() if not name.startswith("celery.")]

    def tasks_with(self, attribute: str, value: object) -> list[str]:
        """Return the names of the tasks whose ``attribute`` is ``value`` although the setting says otherwise."""
        return sorted(task.name for task in self.tasks if getattr(task, attribute, None) is value)

"""The application as the rules see it: what Celery resolves, not what is written."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.app.backends import by_url
from celery.utils.imports import symbol_by_name

from celery_doctor import routes, urls
from celery_doctor.dialect import OPTIONS, Dialect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

RESOLVED = ("broker_url", "broker_read_url", "broker_write_url", "result_backend")  # Celery reads the environment, too
BACKENDS = {  # modules of Celery's own backends, of which others are made by inheritance
    "celery.backends.redis": "redis",
    "celery.backends.rpc": "rpc",
    "celery.backends.cache": "cache",
    "celery.backends.database": "database",
    "django_celery_results.backends.cache": "cache",
    "django_celery_results.backends": "database",
}


class Subject:
    """Answers what several rules ask of one application.

    Args:
        app: any Celery application, its task modules imported.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        app.finalize()
        app.conf.finalize()  # from here on an error in the settings is one of loading
        self.dialect = Dialect(app)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting as Celery resolves it, ``default`` when neither the application nor Celery knows it."""
        if name in RESOLVED:
            return getattr(self.app.conf, name)
        return self.app.conf.get(name, default)

    def number(self, name: str, default: float | None = None) -> float | None:
        """Return a setting that is a number; ``default`` when it is not set.

        Raises:
            ValueError: it is set and is no number.
        """
        return as_number(self.get(name), self.spell(name), default)

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a setting that is a dictionary, an empty one when it is not set.

        Raises:
            ValueError: it is set and is no dictionary.
        """
        value = self.get(name) or {}
        try:
            return dict(value)
        except (TypeError, ValueError):
            raise ValueError(f"{self.spell(name)} is {value!r}, a dictionary is needed") from None

    def spell(self, text: str) -> str:
        """Put the names of settings in a text into the form that this application uses.

        Args:
            text: names are in Celery's own form, ``task_acks_late``; with ``namespace="CELERY"`` they become
                ``CELERY_TASK_ACKS_LATE``, in an application of before Celery 4 ``CELERY_ACKS_LATE``.
        """
        return self.dialect.spell(text)

    @cached_property
    def write_brokers(self) -> list[urls.Address]:
        """The addresses that publishes go to."""
        return urls.read(self.get("broker_write_url") or "amqp://")

    @cached_property
    def read_brokers(self) -> list[urls.Address]:
        """The addresses that workers consume from."""
        return urls.read(self.get("broker_read_url") or "amqp://")

    @property
    def broker(self) -> str:
        """``amqp``, ``redis``, or the scheme of another broker; ``broker_transport`` comes before that of the URL."""
        chosen, scheme = str(self.get("broker_transport") or "").lower(), self.write_brokers[0].scheme.lower()
        transport = scheme if {".", ":"} & set(chosen) else chosen or scheme  # a class says less than the URL
        return urls.KINDS.get(transport, transport)

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
    def stores(self) -> list[urls.Address]:
        """The addresses of the result backend, none without one."""
        value = self.app.backend_cls or self.get("result_backend")
        return urls.read(value, bare_is_name=True) if isinstance(value, (str, list, tuple)) else []

    @cached_property
    def results(self) -> str:
        """The kind of the result backend, ``redis`` for instance; an empty text without one."""
        value = self.app.backend_cls or self.get("result_backend")
        if not value or value == "disabled":
            return ""
        if self.stores and not self.stores[0].driver and self.stores[0].kind in urls.KINDS.values():
            return self.stores[0].kind
        modules = {base.__module__ for base in by_url(value, self.app.loader)[0].__mro__}
        found = [kind for module, kind in BACKENDS.items() if any(name.startswith(module) for name in modules)]
        return found[0] if found else self.stores[0].kind if self.stores else str(value)

    @property
    def django_results(self) -> bool:
        """Whether results are rows of django-celery-results."""
        value = str(self.app.backend_cls or self.get("result_backend"))
        return self.results == "database" and value.startswith(("django-db", "django_celery_results"))

    @property
    def redis_results(self) -> bool:
        """Whether results are in Redis, alone or behind Sentinel."""
        return self.results == "redis"

    @property
    def sentinel_results(self) -> bool:
        """Whether Sentinels say where the results are."""
        return self.redis_results and any(store.scheme == "sentinel" for store in self.stores)

    @property
    def durable_results(self) -> bool:
        """Whether the layer's result backend is used."""
        return any(store.driver.startswith("holdfast.results") for store in self.stores)

    @property
    def replicated_results(self) -> bool:
        """Whether the layer waits for replicas: of a service of one address its settings may ask for none."""
        asked = self.mapping("result_backend_transport_options").get("durable_replicas")
        return self.durable_results and (self.sentinel_results or asked != 0)

    @property
    def durable_publisher(self) -> bool:
        """Whether the layer's publisher is installed."""
        return _made_of(type(self.app.amqp), "holdfast.publisher")

    @property
    def durable_consumer(self) -> bool:
        """Whether the layer's consumer is used; an own one is combined with it when a worker starts."""
        if self.durable_control:
            return True
        consumer = self.get("worker_consumer") or ""
        return _made_of(symbol_by_name(consumer), "holdfast.consumer") if consumer else False

    @property
    def durable_control(self) -> bool:
        """Whether the layer's remote control is used, whose queues a reconnect cannot meet."""
        return _made_of(type(self.app.control), "holdfast.")

    @property
    def transport(self) -> dict[str, Any]:
        """``broker_transport_options``."""
        return self.mapping("broker_transport_options")

    @cached_property
    def routes(self) -> list[routes.Route]:
        """The entries of ``task_routes``, whatever their form."""
        return routes.read(self.get("task_routes"))

    @cached_property
    def queues(self) -> dict[str, Any]:
        """The queues that the application describes, by name."""
        return dict(self.app.amqp.queues)

    @cached_property
    def wanted_queues(self) -> dict[str, str]:
        """The names of queues that something sends to: where each is named, by name of the queue."""
        all_routed = any(route.options is None or route.pattern == "*" for route in self.routes)
        wanted = {} if all_routed else {self.get("task_default_queue") or "celery": "task_default_queue"}
        for route in self.routes:
            if isinstance(route.queue, str):
                wanted.setdefault(route.queue, f"task_routes, {route.pattern}")
        for task in self.tasks:
            queue = getattr(task, "queue", None)
            if isinstance(queue, str):
                wanted.setdefault(queue, f"the task {task.name}")
        for name, entry in self.mapping("beat_schedule").items():
            options = (entry.get("options") if isinstance(entry, dict) else getattr(entry, "options", None)) or {}
            if isinstance(options.get("queue"), str):
                wanted.setdefault(options["queue"], f"beat_schedule, {name}")
        aliases = {queue.alias for queue in self.queues.values() if getattr(queue, "alias", None)}
        return {name: where for name, where in wanted.items() if name not in aliases}

    @cached_property
    def tasks(self) -> list[Any]:
        """The application's own tasks."""
        return [task for name, task in self.app.tasks.items() if not name.startswith("celery.")]

    def texts(self) -> Iterable[str]:
        """Yield the settings that are text where Celery computes with a number or asks whether they are true."""
        for name, option in OPTIONS.items():
            value = self.app.conf.get(name)
            if isinstance(value, str) and option.type in ("int", "float", "bool") and option.default != value:
                meaning = ", which counts as on" if option.type == "bool" and value else ""
                yield f"{name} is the text {value!r}{meaning}"


def _made_of(cls: Any, package: str) -> bool:
    """Say whether a class is one of a package's, or combined with one."""
    return any(base.__module__.startswith(package) for base in getattr(cls, "__mro__", ()))


def as_number(value: Any, name: str, default: float | None = None) -> float | None:
    """Return a value as a number; text that holds one counts, and so does a ``timedelta``, in seconds.

    Args:
        value: what is there.
        name: how the message names it.
        default: returned for None and an empty text.

    Raises:
        ValueError: it is no number.
    """
    if value is None or value == "":
        return default
    try:
        return float(value.total_seconds() if hasattr(value, "total_seconds") else value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}, a number is needed") from None

"""Gives an application the values of :mod:`holdfast.settings` as defaults: whatever it sets itself stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from celery.exceptions import ImproperlyConfigured

from holdfast import environment, settings

if TYPE_CHECKING:
    from celery import Celery

# An application that sets one of a line has decided what the others mean with it; they are not given then.
QUEUES = ("task_queues", "task_default_queue", "task_default_exchange", "task_default_routing_key")
LIMITS = ("task_time_limit", "task_soft_time_limit")
FAILURES = ("task_acks_on_failure_or_timeout",)
RESULTS = ("result_backend",)
SCHEDULE = ("beat_scheduler", "redbeat_redis_url", "redbeat_redis_options")

# What describes the queues of HOLDFAST_BROKER_URL; Celery's own values make the queues of any other topology.
TOPOLOGY = (*QUEUES, "task_create_missing_queues", "task_routes", "holdfast_expired_queue")


def give(app: Celery) -> None:
    """Put the defaults below the application's settings, when these are read, and again when they are replaced.

    Celery's ``add_defaults`` would put them above what ``config_from_object`` read, and forget them when it is called
    again. ``on_after_configure`` is sent each time.

    Args:
        app: its settings may have been read already.
    """
    app.on_after_configure.connect(_configured)
    if app.configured:  # type: ignore[attr-defined]  # not in the stubs
        _configured(app, app.conf)


def _configured(sender: Celery, source: Any, **_: object) -> None:  # noqa: ARG001 - the names of the signal's arguments
    given = _read(source)
    for maps in (source.maps, source.defaults):
        maps.insert(-1, given)  # the last one is Celery's own


def _read(conf: Any) -> Mapping[str, Any]:
    try:
        return suited(conf)
    except ImproperlyConfigured as error:
        return Wrong(error)  # Celery, which sends the signal, would log what a receiver raises, and go on without it
    except Exception as error:  # noqa: BLE001 - likewise: an application without any default would lose tasks
        unexpected = ImproperlyConfigured(
            f"The defaults of holdfast cannot be made: {type(error).__name__}: {error}. Allowed is what "
            "docs/reference/settings.md says of the HOLDFAST_* variables: compare yours with it."
        )
        unexpected.__cause__ = error
        return Wrong(unexpected)


class Wrong(Mapping[str, Any]):
    """The defaults when the environment is wrong: each look at a setting that the application does not set says so.

    Args:
        error: says what is wrong.
    """

    def __init__(self, error: ImproperlyConfigured) -> None:
        self._error = error

    def __getitem__(self, name: str) -> Any:
        raise self._error

    def __iter__(self) -> Iterator[str]:
        raise self._error

    def __len__(self) -> int:
        raise self._error


def suited(conf: Any) -> dict[str, Any]:
    """Return the defaults that do not contradict what an application sets.

    An address is given when the environment has it and the application has none of its own; so ``HOLDFAST_BROKER_URL``
    and ``HOLDFAST_RESULT_URL`` may both be missing.

    Args:
        conf: the application's settings, without these defaults.

    Raises:
        ImproperlyConfigured: a variable of the environment is wrong, or one that belongs to it is missing.
    """

    def own(names: tuple[str, ...]) -> bool:
        return any(conf.value_set_for(name) for name in names)

    given = settings.general()
    if not own(LIMITS):
        given |= settings.time_limits()
    if not own(FAILURES):
        given |= settings.failures()
    broker = conf.broker_write_url or conf.broker_read_url
    if broker or not _has("HOLDFAST_BROKER_URL"):
        given |= settings.rabbitmq() if _is_rabbitmq(broker) else {}
    else:
        given |= settings.cluster()
        if own(QUEUES):
            given = {name: value for name, value in given.items() if name not in TOPOLOGY}
    if _has("HOLDFAST_RESULT_URL") and not (own(RESULTS) or conf.result_backend):
        given |= settings.results()
    if (_has("HOLDFAST_SCHEDULE_URL") or _has("HOLDFAST_RESULT_URL")) and not own(SCHEDULE):
        given |= settings.schedule()
    return given


def unused(conf: Any) -> list[str]:
    """Say which addresses of the environment are not used, because the application has its own.

    Args:
        conf: the application's settings.
    """
    used = {
        "HOLDFAST_BROKER_URL": ("broker_url", conf.broker_write_url),
        "HOLDFAST_RESULT_URL": ("result_backend", conf.result_backend),
    }
    return [
        f"{name} is set and not used: the application has a {setting} of its own"
        for name, (setting, value) in used.items()
        if _has(name) and not all(url.strip() in str(value) for url in environment.split_urls(os.environ[name]))
    ]


def _has(name: str) -> bool:
    return bool(os.environ.get(name, "").strip())


def _is_rabbitmq(url: Any) -> bool:
    """Say whether a broker is RabbitMQ, as it is for Celery without a URL or a scheme.

    Args:
        url: as in ``broker_url``: one or several, in a list or joined by semicolons.
    """
    first = url if isinstance(url, str) else next(iter(url or ()), "")
    scheme, sign, _ = first.partition("://")
    return not sign or scheme in ("amqp", "amqps", "pyamqp")

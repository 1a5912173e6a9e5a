"""The Celery application of a mutant, of its control, or of stock Celery."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery import Celery

import holdfast
from holdfast import audit, consumer, environment, publisher, request, settings, startup

if TYPE_CHECKING:
    from drill.selftest.mutants import Mutant

PARTS: dict[str, Any] = {"publisher": publisher, "consumer": consumer, "request": request, "audit": audit}
VISIBILITY = 30  # seconds instead of half an hour: what a dead worker held must be back before the run is judged


def make(mutant: Mutant) -> Celery:
    """Return the application of a set-up, made from the environment."""
    app = Celery("drill", include=["drill.tasks"])
    if mutant.stock:
        app.conf.update(_merged(_stock(redis_broker=mutant.redis_broker), mutant.settings))
        if mutant.redis_broker:
            app.conf.broker_transport_options["visibility_timeout"] = VISIBILITY
        return app
    if mutant.own:
        places = {"result_backend_transport_options": settings.result_backend_transport_options}
        app.conf.update(_merged(places, mutant.settings))
        return holdfast.install(app)
    app.config_from_object("holdfast.settings")
    startup.check_versions()
    for name in sorted(mutant.layer):
        PARTS[name].install(app)
    if mutant.redis_broker:
        app.conf.broker_transport_options["visibility_timeout"] = VISIBILITY
    changes = dict(mutant.settings)
    if changes.get("result_backend") == "stock":
        changes["result_backend"] = environment.urls("HOLDFAST_RESULT_URL", ("sentinel",))
    app.conf.update(changes)
    if "task_routes" in changes:
        app.amqp.__dict__.pop("router", None)  # made from the settings before
    return app


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings with changes; a dictionary of options keeps what the changes do not name."""
    both = {name: base[name] | changes[name] for name in base.keys() & changes if isinstance(base[name], dict)}
    return base | changes | both


def _stock(*, redis_broker: bool) -> dict[str, Any]:
    """Return what Celery needs to find its servers, and nothing else."""
    sentinel = {
        "master_name": os.environ["HOLDFAST_SENTINEL_MASTER"],
        "sentinel_kwargs": {
            "username": environment.decoded("HOLDFAST_SENTINEL_USERNAME"),
            "password": environment.decoded("HOLDFAST_SENTINEL_PASSWORD"),
        },
    }
    return {
        "broker_url": settings.broker_url,
        "broker_transport_options": dict(sentinel) if redis_broker else {},
        "result_backend": environment.urls("HOLDFAST_RESULT_URL", ("sentinel",)),
        "result_backend_transport_options": sentinel,
        "task_default_queue": "default",
        "control_queue_durable": True,  # RabbitMQ 4.3 refuses Celery's own transient queues (kombu#2237)
        "control_queue_exclusive": False,
    }

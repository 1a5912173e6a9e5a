"""``holdfast.install`` in an application's own tests with the fixtures of ``celery.contrib.pytest``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.contrib.pytest import (
    celery_app,
    celery_class_tasks,
    celery_enable_logging,
    celery_includes,
    celery_parameters,
    celery_worker,
    celery_worker_pool,
    use_celery_app_trap,
)

import holdfast
from holdfast.publisher.durable_amqp import DurableAMQP

if TYPE_CHECKING:
    from celery import Celery
    from celery.worker import WorkController

__all__ = [  # fixtures
    "celery_app",
    "celery_class_tasks",
    "celery_enable_logging",
    "celery_includes",
    "celery_parameters",
    "celery_worker",
    "celery_worker_pool",
    "use_celery_app_trap",
]


@pytest.fixture(scope="session")
def celery_config() -> dict[str, Any]:
    """Servers in memory, as in Celery's documentation."""
    return {"broker_url": "memory://", "result_backend": "cache+memory://"}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    """Seconds that a busy machine may take; by default ten."""
    return {"ping_task_timeout": 60.0, "shutdown_timeout": 60.0}


@pytest.fixture
def installed(celery_app: Celery) -> Celery:
    """The application of the fixtures with the layer; asked for before ``celery_worker``."""
    return holdfast.install(celery_app)


def test_an_embedded_worker_runs_what_is_called(installed: Celery, celery_worker: WorkController) -> None:
    @installed.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    celery_worker.reload()
    assert isinstance(installed.amqp, DurableAMQP)
    assert add.delay(1, 2).get(timeout=60) == 3

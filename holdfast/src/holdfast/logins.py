"""A worker or beat whose login cannot do its work does not start: each finished task would be a dead letter."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from celery.backends.redis import RedisBackend
from celery.signals import worker_init
from celery.utils.log import get_logger
from redis.exceptions import NoPermissionError, RedisError

from holdfast.startup import at_start

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)


def refusal(kind: str, work: str, error: Exception) -> str:
    """Return what to tell about a login that its server refuses.

    Args:
        kind: of the process, which is the name of its user and of its file, too: ``worker`` or ``beat``.
        work: what the login may not do.
        error: the server's answer.
    """
    return (
        f"holdfast refuses to start: this login may not {work}\n"
        f"found:   {error}\n"
        f"allowed: a user who may: Holdfast's is {kind}\n"
        f"next:    load login-{kind}.env after app.env (docs/how-to/copy-configuration.md), or allow it to your user"
    )


def check_results(app: Celery) -> None:
    """Write to the result store what is gone a second later; a store that is away is not the login's fault.

    Raises:
        SystemExit: the login may not write results.
    """
    backend: Any = app.backend
    if app.conf.task_ignore_result or not isinstance(backend, RedisBackend):
        return
    key = backend.get_key_for_task(f"holdfast-start-{uuid.uuid4()}")
    client = backend.client
    try:
        client.set(key, b"", ex=1)
    except NoPermissionError as error:
        raise SystemExit(refusal("worker", "write results", error)) from error
    except (RedisError, OSError) as error:
        logger.warning("Whether this login may write results is not known: %r", error)
    finally:
        client.connection_pool.disconnect()  # children are forked from this process, whatever the store answered


def install(app: Celery) -> None:
    """Check the login for results when a worker of the application starts."""
    at_start(app, lambda worker: check_results(worker.app), worker_init)

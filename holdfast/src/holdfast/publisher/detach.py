"""Publishing must not depend on the result store.

Stock Celery subscribes to the result's channel before it publishes (``Backend.on_task_call``). With Redis down
``delay()`` blocks for 19 seconds, raises, and the task is not published although the broker is fine. ``get()``
subscribes again, so leaving it out loses nothing.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from celery.backends.base import BaseKeyValueStoreBackend

from holdfast.publisher.recorder import attach_backend

if TYPE_CHECKING:
    from celery import Celery


def detach_results(app: Celery) -> None:
    """Keep the result backend of an app out of its publishes.

    Args:
        app: any Celery app; a backend that exists already is changed too.
    """
    maker: Any = app  # what follows is not in the stubs
    create = maker._get_backend

    @wraps(create)
    def create_detached() -> Any:
        return _detach(create())

    maker._get_backend = create_detached
    for existing in (maker._backend_cache, getattr(maker._local, "backend", None)):
        if existing is not None:
            _detach(existing)


def _detach(backend: Any) -> Any:
    if isinstance(backend, BaseKeyValueStoreBackend):  # the rpc backend declares its queue there, and on the broker
        vars(backend)["on_task_call"] = lambda _producer, _task_id: None
    return attach_backend(backend)

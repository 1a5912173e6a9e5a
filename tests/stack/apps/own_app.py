"""An application as users have one: a factory, a task class of its own, its own broker, results and time zone."""

from __future__ import annotations

import os
from threading import local
from typing import Any

from celery import Celery, Task, shared_task
from pydantic import BaseModel

import holdfast


class Order(BaseModel):
    """What a pydantic task takes and gives."""

    number: int


class Context(local):
    """What a task of this thread, or of this greenlet, finds."""

    inside = False


context = Context()


class ContextTask(Task):  # type: ignore[type-arg]  # as Flask's documentation writes it
    """Notes that a task runs inside of its own ``__call__``, as Flask pushes a context there."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        context.inside = True
        try:
            return self.run(*args, **kwargs)
        finally:
            context.inside = False


def create(**own: Any) -> Celery[ContextTask]:
    """Return an application with its own settings."""
    made = Celery("own", task_cls=ContextTask)
    made.config_from_object(
        {
            "broker_url": os.environ["OWN_BROKER_URL"],
            "result_backend": os.environ["OWN_RESULT_URL"],
            "timezone": "Europe/Berlin",
            "worker_hijack_root_logger": False,
            **own,
        }
    )
    holdfast.install(made)
    made.set_default()
    return made


own: dict[str, Any] = {}
if os.environ.get("OWN_TOPOLOGY") == "classic":  # what Celery makes without any setting
    own = {"task_default_exchange_type": "direct", "task_default_queue_type": "classic"}
if os.environ.get("OWN_QUEUE"):
    own["task_default_queue"] = os.environ["OWN_QUEUE"]
app: Any = create(**own)


@shared_task
def add(first: int, second: int) -> tuple[int, bool]:
    """Add, and tell whether the task class's own ``__call__`` ran it."""
    return first + second, context.inside


@shared_task(pydantic=True)
def following(order: Order) -> Order:
    """Return the next order."""
    return Order(number=order.number + 1)


@app.task(bind=True, max_retries=2)  # type: ignore[untyped-decorator]  # the application is made by a factory
def insist(self: Task[Any, Any]) -> int:
    """Succeed at the second retry."""
    if self.request.retries < 2:
        raise self.retry(countdown=1)
    return int(self.request.retries)


@app.task  # type: ignore[untyped-decorator]  # as above
def total(parts: list[tuple[int, bool]]) -> int:
    """Sum up what the members of a chord gave."""
    return sum(value for value, _ in parts)

"""The tasks of Django 6.0 as Celery tasks that are not lost.

    TASKS = {"default": {"BACKEND": "holdfast.django.backend.CeleryBackend"}}

In a transaction of the default database (``OPTIONS = {"using": ...}`` names another one) ``enqueue`` stores the task in
the outbox; without one it publishes it, confirmed by the broker. ``Task.queue_name`` is a queue of Celery's; Django's
``default`` is whatever queue the Celery application has as its default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import shared_task
from django.db import DEFAULT_DB_ALIAS
from django.tasks import DEFAULT_TASK_QUEUE_NAME
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import TaskContext, TaskError, TaskResult, TaskResultStatus
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json
from django.utils.module_loading import import_string
from typing_extensions import override

from holdfast.django.outbox import enqueue, transactional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class CeleryBackend(BaseTaskBackend):
    """Gives Django's tasks to Celery.

    A priority is refused: a quorum queue has two of them, not two hundred. Results are Celery's, by the id that
    ``enqueue`` returns: Celery's store does not know the function of an id, and an unknown id looks like a waiting one.

    Args:
        alias: name of the backend in ``TASKS``.
        params: its entry.
    """

    supports_defer = True
    supports_async_task = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self.using: str = self.options.get("using", DEFAULT_DB_ALIAS)

    @override
    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        self.validate_task(task)
        result = _result(task, str(uuid4()), args, kwargs, alias=self.alias)
        options: dict[str, Any] = {"task_id": result.id, "shadow": task.module_path}
        if task.run_after is not None:
            options["eta"] = task.run_after
        if task.queue_name != DEFAULT_TASK_QUEUE_NAME:
            options["queue"] = task.queue_name
        signature = call.signature((task.module_path, self.alias, result.args, result.kwargs), **options)
        if transactional(self.using):
            enqueue(signature, using=self.using)
        else:
            signature.apply_async()
        task_enqueued.send(type(self), task_result=result)
        return result


@shared_task(name="holdfast.django.call", bind=True)
def call(self: Any, path: str, alias: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Run a task of Django's.

    Args:
        self: Celery's task.
        path: where the task is.
        alias: name of its backend in ``TASKS``.
        args: of the task.
        kwargs: of the task.

    Returns:
        What the task returns, as values of JSON.
    """
    task = import_string(path)
    attempts = [self.request.hostname or ""] * (1 + self.request.retries)
    result = _result(task, self.request.id, args, kwargs, alias=alias, workers=attempts)
    task_started.send(CeleryBackend, task_result=result)
    context = [TaskContext(task_result=result)] if task.takes_context else []
    try:
        value = normalize_json(task.call(*context, *args, **kwargs))
    except Exception as error:
        kind = type(error)
        result.errors.append(TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=""))
        _finish(result, TaskResultStatus.FAILED)
        raise
    _finish(result, TaskResultStatus.SUCCESSFUL)
    return value


def _finish(result: TaskResult, status: TaskResultStatus) -> None:
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", timezone.now())
    task_finished.send(CeleryBackend, task_result=result)


def _result(
    task: Any,
    task_id: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    alias: str,
    workers: Sequence[str] = (),
) -> TaskResult:
    """Return what Django knows of a task that was enqueued, or that workers have begun."""
    running = bool(workers)
    now = timezone.now()
    return TaskResult(
        task=task,
        id=task_id,
        status=TaskResultStatus.RUNNING if running else TaskResultStatus.READY,
        enqueued_at=None if running else now,
        started_at=now if running else None,
        last_attempted_at=now if running else None,
        finished_at=None,
        args=list(args),
        kwargs=dict(kwargs),
        backend=alias,
        errors=[],
        worker_ids=list(workers),
    )

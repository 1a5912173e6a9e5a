"""Log lines as JSON, one object a line, each with the task that it is about: ``HOLDFAST_LOG_FORMAT=json``.

``task_id`` names one task; ``root_id`` is the same in everything that one publish has set off: its retries, what its
tasks publish, callbacks and chords. The web request that published it logs the id that ``delay()`` returned.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
from celery.signals import after_setup_logger, after_setup_task_logger
from pythonjsonlogger.json import JsonFormatter
from typing_extensions import override

from holdfast import environment

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

_message: ContextVar[Mapping[str, Any] | None] = ContextVar("holdfast_message", default=None)


@contextmanager
def about(headers: Mapping[str, Any]) -> Iterator[None]:
    """Let every line that is logged inside the block carry the ids of a task message.

    Args:
        headers: of the message.
    """
    token = _message.set(headers)
    try:
        yield
    finally:
        _message.reset(token)


class Formatter(JsonFormatter):
    """What is logged by anybody, as JSON; whatever is passed as ``extra`` becomes a field."""

    def __init__(self) -> None:
        super().__init__(["levelname", "name", "message", "processName", "process"], rename_fields=_NAMES)

    @override
    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["time"] = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        super().add_fields(log_data, record, message_dict)
        log_data.pop("data", None)  # Celery's own extra: the words of the message again, arguments included
        log_data |= {name: value for name, value in _task(record).items() if value}


_NAMES = {"levelname": "level", "name": "logger", "processName": "process", "process": "pid"}


def _task(record: logging.LogRecord) -> dict[str, Any]:
    """Return the task that a line is about: the message at hand, the task that runs, or what Celery says itself."""
    headers = _message.get()
    if headers is not None:
        return {"task_id": headers.get("id"), "task": headers.get("task"), "root_id": headers.get("root_id")}
    task = get_current_task()
    if task and task.request.id:
        return {"task_id": task.request.id, "task": task.name, "root_id": task.request.root_id}
    data = getattr(record, "data", None)
    return {"task_id": data.get("id"), "task": data.get("name")} if isinstance(data, dict) else {}


def format_as_chosen(logger: logging.Logger, **_: object) -> None:
    """Make the handlers of a logger write JSON, if that is chosen.

    Args:
        logger: a logger that is set up.

    Raises:
        ImproperlyConfigured: ``HOLDFAST_LOG_FORMAT`` is neither ``json`` nor ``text``.
    """
    if environment.choice("HOLDFAST_LOG_FORMAT", ("text", "json")) == "json":
        for handler in logger.handlers:
            handler.setFormatter(Formatter())


def install() -> None:
    """Let workers and beats log as chosen, from the moment Celery sets up its loggers."""
    environment.choice("HOLDFAST_LOG_FORMAT", ("text", "json"))
    after_setup_logger.connect(format_as_chosen, weak=False)
    after_setup_task_logger.connect(format_as_chosen, weak=False)

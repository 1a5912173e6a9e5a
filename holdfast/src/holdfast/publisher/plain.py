"""Single publishes by template: ``delay`` of a task that was called in the same way before.

Celery builds the first two messages of a kind, and the second one has to equal what the template gives, as for
``publish_many``. From then on only id, arguments and time are filled in. Whatever may change a message is looked at
before each call: settings, routers, queues, receivers of signals, instrumentations. When one of them is another than
it was, everything is learnt anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery import signals
from kombu.utils.uuid import uuid

from holdfast.logs import about
from holdfast.publisher import recorder
from holdfast.publisher.log import logger
from holdfast.publisher.recorder import collecting
from holdfast.publisher.template import Template, usable

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from holdfast.publisher.message import Message, Wire

KINDS = 256  # of messages that are remembered; an app that makes more of them begins anew
_CALL = {"task_id", "task_type", "result_cls"}  # what ``Task.apply_async`` passes, and no message depends on
_KIND = {  # what messages of a kind have in common
    "queue", "exchange", "routing_key", "priority", "serializer", "delivery_mode", "ignore_result", "time_limit",
    "soft_time_limit",
}  # fmt: skip
_VALUES = {str, int, float, bool}
_ARGS, _KWARGS = {tuple, list, type(None)}, {dict, type(None)}


@dataclass
class _Known:
    """What is known of an app as long as nothing changes that Celery looks at when it publishes."""

    seen: tuple[object, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    usable: bool = False
    models: dict[object, Message] = field(default_factory=dict)
    proven: dict[object, Template | None] = field(default_factory=dict)


class PlainCalls:
    """The single publishes of one app.

    Args:
        app: the app.
        send: Celery's own ``send_task`` of it.
    """

    def __init__(self, app: Celery, send: Callable[..., Any]) -> None:
        self._app: Any = app  # the stubs do not know all that is read here
        self._send = send
        self._known = _Known()

    def publish(self, name: str, positional: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Publish what ``Task.apply_async`` passes to ``send_task``, if it is a plain call.

        Args:
            name: of the task.
            positional: what follows the name without a keyword.
            options: the keywords.

        Returns:
            The task's result object; None when Celery has to do all of it, and nothing has happened.

        Raises:
            NotAcknowledged: the kind says why.
        """
        kind = _kind(name, positional, options)
        if kind is None or recorder.running() is not None or self._app.current_worker_task:
            return None
        known = self._up_to_date()
        if not known.usable:
            return None
        args, kwargs = positional[0] or (), positional[1] or {}
        if kind not in known.proven:
            return self._first(known, kind, name, (args, kwargs), options)
        template = known.proven[kind]
        if template is None:
            return None
        task_id, ignored = options.get("task_id") or uuid(), options.get("ignore_result")
        if not ignored:
            with self._app.producer_or_acquire() as producer:
                self._app.backend.on_task_call(producer, task_id)
        amqp = self._app.amqp
        self._carry(name, template.fill(task_id, args, kwargs, amqp.stamp(task_id), self._app.thread_oid))
        result = (options.get("result_cls") or self._app.AsyncResult)(task_id)
        result.ignored = ignored
        return result

    def _up_to_date(self) -> _Known:
        """Return what is known, or nothing when something has changed."""
        app, known = self._app, self._known
        amqp, conf = app.amqp, app.conf
        seen = (
            os.getpid(), conf, len(conf.maps), amqp, amqp.router, amqp.create_task_message, amqp.send_task_message,
            *amqp.queues.values(), len(signals.before_task_publish.receivers),
            len(signals.after_task_publish.receivers), len(signals.task_sent.receivers),
        )  # fmt: skip
        if seen != known.seen or conf.changes != known.settings or len(known.models) + len(known.proven) > KINDS:
            by_amqp = amqp.producer_pool.connections.connection.transport.driver_type == "amqp"
            known = self._known = _Known(seen, dict(conf.changes), by_amqp and usable(app))
        return known

    def _first(self, known: _Known, kind: object, name: str, call: tuple[Any, Any], options: dict[str, Any]) -> Any:
        """Publish one of the first two messages of a kind, as Celery builds it, and learn from it."""
        task_id = options.get("task_id") or uuid()
        with collecting(task_id) as messages:
            result = self._send(name, *call, **(options | {"task_id": task_id}))
        (message,) = messages
        wire = message.encode()
        model = known.models.pop(kind, None)
        if model is None:
            known.models[kind] = message
        else:
            template = Template(model, self._app, options.get("serializer") or self._app.conf.task_serializer)
            known.proven[kind] = template if template.gives(message, wire, *call) else None
        self._carry(name, wire)
        return result

    def _carry(self, name: str, wire: Wire) -> None:
        """Publish a message and wait for its acknowledgement."""
        with about({"id": wire.task_id, "task": name, "root_id": wire.task_id}):
            acknowledged = self._app.amqp.publisher().carry(wire)
            logger.debug("task %s is %s", wire.task_id, "published" if acknowledged else "stored")


def _kind(name: str, call: tuple[Any, ...], options: dict[str, Any]) -> object:
    """Return what messages of the same kind have in common, or None when this one must be built by Celery."""
    if len(call) != 2 or type(call[0]) not in _ARGS or type(call[1]) not in _KWARGS or not options.get("task_type"):
        return None
    kind: list[object] = [name]
    for option, value in options.items():
        if value is None or option in _CALL:
            continue
        if option not in _KIND or type(value) not in _VALUES:
            return None
        kind += (option, type(value), value)
    return tuple(kind)

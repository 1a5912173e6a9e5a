"""Task messages by template: the first two of a kind are built by Celery, the others differ only in id and arguments.

Celery spends about 180 microseconds on building a message, many times what its transfer costs. The first message of a
kind becomes the template, and the second one has to equal what the template gives. What is published in a way of its
own (by a task, a router, a receiver of a signal, an instrumentation) is built by Celery each time.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, cast

from celery import Task, signals
from celery.app.amqp import AMQP
from celery.canvas import Signature
from celery.utils.saferepr import saferepr
from kombu.serialization import dumps
from kombu.utils.uuid import uuid

from holdfast.audit import marks, publishers
from holdfast.mixin import is_celerys
from holdfast.published import PUBLISHED_AT, now
from holdfast.publisher.durable_amqp import DurableAMQP
from holdfast.publisher.message import Message, Wire
from holdfast.serialization import limit_passes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery import Celery

_LONG = Struct(">I")
_PLAIN = (str, int, float, bool, type(None))  # the types that print in one way only
_OPTIONS = {"task_id", "queue", "exchange", "routing_key", "priority", "ignore_result", "time_limit", "soft_time_limit"}
_MARKS = {
    name: f"\0{name}\0" for name in ("id", "args", "kwargs", "at", "reply_to")
}  # stand for what changes; no encoder escapes them
_PUBLISHING = (  # what stands between a signature and send_task, as Celery made it
    (Signature, "apply_async", Signature.apply_async),
    *((Task, name, getattr(Task, name)) for name in ("apply_async", "shadow_name", "_get_exec_options", "_get_app")),
)


class Template:
    """A message with holes for id and arguments.

    Args:
        model: a message of this kind, as Celery built it.
        app: the app it was built for.
        serializer: what kombu serialises its body with.
    """

    def __init__(self, model: Message, app: Celery, serializer: str) -> None:
        self._exchange, self._key = model.exchange, model.routing_key
        self._serializer = serializer
        self._reprs = (app.amqp.argsrepr_maxsize, app.amqp.kwargsrepr_maxsize, app.conf.task_repr_maxlevels)
        headers = {
            **model.headers,
            "id": _MARKS["id"],
            "argsrepr": _MARKS["args"],
            "kwargsrepr": _MARKS["kwargs"],
            PUBLISHED_AT: _MARKS["at"],
        }
        self._roots = model.headers["root_id"] == model.headers["id"]
        if self._roots:
            headers["root_id"] = _MARKS["id"]
        properties = {**model.properties, "correlation_id": _MARKS["id"], "reply_to": _MARKS["reply_to"]}
        raw = Message(
            model.exchange, model.routing_key, b"", model.content_type, model.content_encoding, headers, properties
        ).encode()
        table = (
            2 + 1 + len(model.content_type) + 1 + len(model.content_encoding)
        )  # flags and two short strings before it
        self._head = raw.properties[:table]
        (size,) = _LONG.unpack_from(raw.properties, table)
        inside, after = raw.properties[table + 4 : table + 4 + size], raw.properties[table + 4 + size :]
        self._pieces = _cut(inside)
        self._fixed = sum(len(piece) for piece, _ in self._pieces)
        self._before_id, _, after = after.partition(_short(_MARKS["id"].encode()))
        self._after_id, _, self._after_reply_to = after.partition(_short(_MARKS["reply_to"].encode()))

    def fill(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], at: str, reply_to: str) -> Wire:
        """Return the message for one call.

        Args:
            task_id: its id.
            args: positional arguments.
            kwargs: keyword arguments.
            at: when it is published.
            reply_to: what the calling thread is known by.
        """
        limit, kwlimit, levels = self._reprs
        raw_id = task_id.encode()
        values = {
            "id": _long(raw_id),
            "args": _long(plain_repr(args, limit, levels).encode()),
            "kwargs": _long(plain_repr(kwargs, kwlimit, levels).encode()),
            "at": _long(at.encode()),
            "": b"",
        }
        parts = [self._head, b""]
        size = self._fixed
        for piece, name in self._pieces:
            value = values[name]
            size += len(value)
            parts += (piece, value)
        parts[1] = _LONG.pack(size)
        parts += (self._before_id, _short(raw_id), self._after_id, _short(reply_to.encode()), self._after_reply_to)
        with limit_passes():
            _, encoding, data = dumps((args, kwargs, _EMBED), self._serializer)
        body = data.encode(encoding) if isinstance(data, str) else data
        return Wire(
            task_id,
            self._exchange,
            self._key,
            b"".join(parts),
            body,
            marks.made(at, task_id) if at[0] == marks.SIGN else None,
        )

    def gives(self, message: Message, wire: Wire, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Tell whether this template gives, byte by byte, a message that Celery built.

        Args:
            message: as it was built.
            wire: the same, encoded.
            args: of its call.
            kwargs: of its call.
        """
        at, reply_to = message.headers[PUBLISHED_AT], message.properties["reply_to"]
        return self.fill(cast("str", message.task_id), args, kwargs, at, reply_to) == wire


def usable(app: Celery) -> bool:
    """Tell whether an app builds and sends every message as Celery does, with nothing of its own in between.

    Args:
        app: an app on which ``holdfast.install`` was called.
    """
    conf, amqp = app.conf, app.amqp
    return (
        conf.task_protocol == 2
        and not conf.task_compression
        and not conf.task_always_eager
        and not conf.task_send_sent_event
        and not any(s.receivers for s in (signals.before_task_publish, signals.after_task_publish, signals.task_sent))
        and all(_ignores_arguments(route) for route in amqp.routes)
        and type(amqp) is DurableAMQP
        and is_celerys(amqp.create_task_message, AMQP.as_task_v2)
        and not hasattr(amqp.send_task_message, "__wrapped__")
    )


class Templates:
    """The templates of one bulk publish.

    Args:
        app: the app whose tasks are published.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._plain: dict[str, bool] = {}  # by the name of a task: publishing it does only what Celery does
        self._models: dict[object, Template] = {}
        self._proven: dict[object, Template | None] = {}
        amqp: Any = app.amqp
        notes = publishers.notes(app)
        self._stamp: Callable[[str], str] = notes.stamp if notes else lambda _: now()
        self._usable = usable(app) and amqp.sends is app.send_task

    def key(self, signature: Signature[Any]) -> object:
        """Return what messages of the same kind have in common, or None when this one must be built by Celery."""
        options = signature.options
        if not self._usable or type(signature) is not Signature or not options.keys() <= _OPTIONS:
            return None
        name = cast("str", signature.task)
        if name not in self._plain:
            self._plain[name] = _publishes_as_celery(self._app.tasks.get(name))
        if not self._plain[name]:
            return None
        parent: Any = self._app.current_worker_task
        caller = parent.request.id if parent else None
        key = (caller, name, *((option, value) for option, value in options.items() if option != "task_id"))
        try:
            return None if self._proven.get(key, key) is None else key
        except TypeError:  # an option that cannot be hashed
            return None

    def fill(self, key: object, signature: Signature[Any]) -> Wire | None:
        """Return the message of a signature, or None as long as there is no template for its kind.

        Args:
            key: as returned by :meth:`key`.
            signature: the call.

        Raises:
            TypeError: the task does not take these arguments; as ``apply_async`` would say.
        """
        template = self._proven.get(key)
        if template is None:
            return None
        args, kwargs = signature.args, signature.kwargs
        task: Any = self._app.tasks.get(cast("str", signature.task))
        if task is not None and task.typing:
            task.__header__(*args, **kwargs)
        task_id = signature.options.get("task_id") or uuid()
        return template.fill(task_id, args, kwargs, self._stamp(task_id), cast("Any", self._app).thread_oid)

    def learn(self, key: object, signature: Signature[Any], message: Message) -> None:
        """Make a template of the first message of its kind, and keep it if it gives the second one byte by byte.

        Args:
            key: as returned by :meth:`key`.
            signature: the call.
            message: what Celery built for it.
        """
        template = self._models.pop(key, None)
        if template is None:
            task: Any = self._app.tasks.get(cast("str", signature.task))
            serializer = (task and task.serializer) or self._app.conf.task_serializer
            self._models[key] = Template(message, self._app, serializer)
            return
        same = template.gives(message, message.encode(), signature.args, signature.kwargs)
        self._proven[key] = template if same and self._result_store_is_quiet(message) else None

    def _result_store_is_quiet(self, message: Message) -> bool:
        """Tell whether the result store takes no notice of a publish."""
        call = None if message.headers["ignore_result"] else self._app.backend.on_task_call
        return str(getattr(call, "__module__", "celery.")).startswith(("celery.", "holdfast."))


def plain_repr(value: Any, limit: int, levels: int) -> str:
    """Return what Celery's ``saferepr`` returns, sooner when the value is a flat collection of plain values.

    Args:
        value: arguments: a tuple or list, or a dict of keyword arguments.
        limit: longest result that is not shortened, in characters.
        levels: how deep nested values are printed.
    """
    kind = type(value)
    text = ""
    if kind is dict and all(type(k) is str and type(v) in _PLAIN for k, v in value.items()):
        text = "{" + ", ".join(f"{_plain(k)}: {_plain(v)}" for k, v in value.items()) + "}"
    elif kind in {tuple, list} and all(type(v) in _PLAIN for v in value):
        inner = ", ".join([_plain(v) for v in value])
        text = f"[{inner}]" if kind is list else f"({inner},)" if len(value) == 1 else f"({inner})"
    if text and len(text) < limit:
        return text
    return str(saferepr(value, limit, maxlevels=levels))


_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}  # what as_task_v2 writes for a plain call


def _plain(value: object) -> str:
    return "'" + value.replace("'", "\\'") + "'" if isinstance(value, str) else str(value)


def _cut(table: bytes) -> list[tuple[bytes, str]]:
    """Split an encoded table at the marks; each piece comes with the name of the value that follows it."""
    found = []
    for name, mark in _MARKS.items():
        encoded = _long(mark.encode())
        at = table.find(encoded)
        while at >= 0:
            found.append((at, at + len(encoded), name))
            at = table.find(encoded, at + 1)
    pieces, start = [], 0
    for at, end, name in sorted(found):
        pieces.append((table[start:at], name))
        start = end
    return [*pieces, (table[start:], "")]


def _publishes_as_celery(task: Any) -> bool:
    """Tell whether publishing a signature of this task (None: it is known elsewhere) does only what Celery does."""
    if not all(is_celerys(getattr(kind, name), original) for kind, name, original in _PUBLISHING):
        return False  # an instrumentation has replaced it
    return task is None or (
        all(is_celerys(getattr(task, name), original) for kind, name, original in _PUBLISHING if kind is Task)
        and getattr(task, "_dump_pydantic_arguments", None) is None
        and getattr(task, "compression", None) is None
        and not (task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit)
    )


def _ignores_arguments(route: object) -> bool:
    """Tell whether a router looks at names only: Celery's own maps do, others must say so by ``ignores_arguments``."""
    return type(route).__name__ == "MapRoute" or bool(getattr(route, "ignores_arguments", False))


def _long(raw: bytes) -> bytes:
    return _LONG.pack(len(raw)) + raw


def _short(raw: bytes) -> bytes:
    return bytes((len(raw),)) + raw

"""``task_routes`` in every form that Celery takes, as one flat list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu import Queue


@dataclass(frozen=True)
class Route:
    """One entry: a pattern with its options, or a router whose answers only a message shows.

    Attributes:
        pattern: the name or pattern as text; for a router, its name.
        options: what the entry adds to a message, None for a router.
    """

    pattern: str
    options: dict[str, Any] | None

    @property
    def queue(self) -> Any:
        """The queue it names: a text, a described queue's name, or None."""
        queue = (self.options or {}).get("queue")
        return queue.name if isinstance(queue, Queue) else queue

    @property
    def described(self) -> Queue | None:
        """The queue that the entry describes in full, None when it gives a name or nothing."""
        queue = (self.options or {}).get("queue")
        return queue if isinstance(queue, Queue) else None


def read(value: Any) -> list[Route]:
    """Return the entries of ``task_routes`` in the order in which Celery asks them.

    Args:
        value: None, a dictionary, a router, its import path, or a list of those; pairs may stand for a dictionary.

    Raises:
        ValueError: an entry is none of those.
    """
    if value is None:
        return []
    entries = value if isinstance(value, (list, tuple)) else (value,)
    return [route for entry in entries for route in _entry(entry)]


def _entry(entry: Any) -> list[Route]:
    if isinstance(entry, Mapping):
        return [_pair(pattern, options) for pattern, options in entry.items()]
    if isinstance(entry, (list, tuple)):
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in entry):
            raise ValueError(f"task_routes has {entry!r}: pairs stand in a list of their own, ([(pattern, options)],)")
        return [_pair(pattern, options) for pattern, options in entry]
    if isinstance(entry, str):
        return [Route(entry, None)]
    if callable(entry) or hasattr(entry, "route_for_task"):
        return [Route(getattr(entry, "__name__", type(entry).__name__), None)]
    raise ValueError(f"task_routes has {entry!r}: a dictionary, a list of pairs, a router or its import path is needed")


def _pair(pattern: Any, options: Any) -> Route:
    name = str(getattr(pattern, "pattern", pattern))
    if isinstance(options, (str, Queue)):
        return Route(name, {"queue": options})
    try:
        return Route(name, dict(options))
    except (TypeError, ValueError):
        raise ValueError(f"task_routes has {name}: {options!r}, a dictionary or a queue's name is needed") from None

"""A durability layer for Celery: what was published is executed, or kept where an operator can replay it.

    import holdfast

    app = Celery("shop")
    holdfast.install(app)

Each name is imported when it is first used: :mod:`holdfast.pulse` and :mod:`holdfast.watch` need nothing but the
standard library, and a missing extra concerns only the part that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import (
        aio,
        beat,
        environment,
        inbox,
        logs,
        outbox,
        publisher,
        pulse,
        request,
        results,
        routing,
        settings,
        tracing,
    )
    from holdfast.app import install
    from holdfast.publisher import NotAcknowledged, iter_publish, publish_many

_NAMES = {
    "NotAcknowledged": "publisher",
    "install": "app",
    "iter_publish": "publisher",
    "publish_many": "publisher",
}

__all__ = [
    "NotAcknowledged",
    "aio",
    "beat",
    "environment",
    "inbox",
    "install",
    "iter_publish",
    "logs",
    "outbox",
    "publish_many",
    "publisher",
    "pulse",
    "request",
    "results",
    "routing",
    "settings",
    "tracing",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use.

    Args:
        name: one of ``__all__``.

    Raises:
        AttributeError: there is no such name.
        ImportError: the part needs a package that is not installed; the message names the extra.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_NAMES.get(name, name)}")
    return getattr(module, name) if name in _NAMES else module


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*globals(), *__all__})

"""Outbox and inbox on Django's own connections: ``INSTALLED_APPS = [..., "holdfast.django"]``.

    with transaction.atomic():
        order = Order.objects.create(...)
        enqueue(send_invoice.s(order.pk))

The order and its task are committed together or not at all. The task is published right after the commit; when that
does not work or the process dies, ``manage.py relay`` publishes it.

Each name is imported when it is first used: Django imports this package before models may be imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.django.inbox import once
    from holdfast.django.outbox import enqueue
    from holdfast.django.testing import capture_enqueued

_MODULES = {"capture_enqueued": "testing", "enqueue": "outbox", "once": "inbox"}

__all__ = ["capture_enqueued", "enqueue", "once"]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use.

    Args:
        name: one of ``__all__``.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

"""Combines a class of the application with the layer's own, and tells what is the application's own."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from celery.exceptions import ImproperlyConfigured
from kombu.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from collections.abc import Callable


def mixed(own: Any, ours: type[Any], stock: type[Any], what: str) -> type[Any]:
    """Return a class that does what an application's class and the layer's class do.

    The application's methods run first; what they pass to ``super()`` arrives at the layer and then at Celery.

    Args:
        own: the application's choice, a class or its dotted name; Celery's own class means no choice.
        ours: the layer's class.
        stock: the class of Celery that both extend.
        what: where the application chose, for the message.

    Raises:
        ImproperlyConfigured: the two cannot be combined; the message names them.
    """
    try:
        found = symbol_by_name(own)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(f"{what} is {own!r}, which cannot be imported: {error}") from error
    if not (isinstance(found, type) and (issubclass(found, stock) or issubclass(ours, found))):
        raise ImproperlyConfigured(
            f"{what} is {found!r}, which the layer cannot extend. Make it a subclass of "
            f"{stock.__module__}.{stock.__qualname__}."
        )
    if issubclass(ours, found):
        return ours
    if issubclass(found, ours):
        return found
    pair: Any = found, ours  # classes are hashable; mypy does not see it
    try:
        return cast("type[Any]", _combine(*pair))
    except TypeError as error:
        raise ImproperlyConfigured(
            f"{what} is {found!r}, which cannot be combined with {ours.__module__}.{ours.__qualname__}: {error}. "
            "Make it a subclass of that class, or take away its metaclass or __slots__."
        ) from error


@cache
def _combine(own: Any, ours: Any) -> Any:
    return type(own)(own.__name__, (own, ours), {"__module__": own.__module__, "__doc__": own.__doc__})


def is_celerys(found: Any, original: Callable[..., Any]) -> bool:
    """Tell whether a function or bound method is Celery's own: not overridden, not wrapped by an instrumentation.

    Args:
        found: what an object offers.
        original: the same function of Celery's class.
    """
    function = getattr(found, "__func__", found)
    return function is getattr(original, "__func__", original) and not hasattr(function, "__wrapped__")

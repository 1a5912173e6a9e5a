"""Which Celery application a project has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import _state
from django.core.management.base import CommandError

from holdfast.operators import load_app

if TYPE_CHECKING:
    from celery import Celery


def application(path: str | None = None) -> Celery:
    """Return the Celery application, complete with its tasks.

    Args:
        path: its module, as ``celery -A`` takes it; None for the one that the project has imported.

    Raises:
        CommandError: the project has imported none.
        click.ClickException: the module cannot be imported.
    """
    if path is not None:
        return load_app(path)
    state: Any = _state  # the stubs do not know the app that Celery makes up where there is none
    app: Celery = state.get_current_app()
    if app is state.default_app and app.main == "default":  # Celery makes a project's own app the default one, too
        raise CommandError(
            "No Celery application is loaded. Import it in the project's __init__.py, as Celery's documentation of "
            "Django shows, or name it with --app."
        )
    app.finalize()
    return app

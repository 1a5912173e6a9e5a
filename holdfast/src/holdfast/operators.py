"""What the commands of operators share: the application that they work for, and the brokers with a login of theirs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from celery.app.utils import find_app
from celery.exceptions import ImproperlyConfigured

from holdfast import environment

if TYPE_CHECKING:
    from celery import Celery

PATIENCE: dict[str, Any] = {"max_retries": 3, "interval_start": 1, "interval_step": 1}  # seconds between attempts
OPERATOR_URL = "HOLDFAST_OPERATOR_URL"  # optional: a second login, so that publishing keeps the application's own


def load_app(path: str) -> Celery:
    """Import the application, with the current directory on the import path as ``celery -A`` does.

    Raises:
        click.ClickException: it cannot be imported or its settings are incomplete.
    """
    try:
        app: Celery = find_app(path)
        app.finalize()
        app.conf.broker_url  # noqa: B018 - reads the settings, so that their errors come now
    except (ImportError, AttributeError, ImproperlyConfigured) as error:
        raise click.ClickException(f"Cannot load the application {path!r}: {error}") from error
    return app


def operator_urls() -> str | None:
    """Return the brokers with the login of ``HOLDFAST_OPERATOR_URL``, joined by semicolons; None when it is not set.

    Raises:
        click.ClickException: a URL of it is wrong.
    """
    if not os.environ.get(OPERATOR_URL, "").strip():
        return None
    try:
        return environment.urls(OPERATOR_URL, ("amqp", "amqps"))
    except ImproperlyConfigured as error:
        raise click.ClickException(str(error)) from error

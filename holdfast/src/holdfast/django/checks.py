"""``manage.py check``: what the doctor finds, where a Django project looks for it."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Info
from django.core.checks import Warning as Warn
from django.core.management.base import CommandError

from celery_doctor import Severity, State, examine
from celery_doctor.subject import Subject
from holdfast.django.application import application

KINDS = {Severity.FATAL: Error, Severity.WARNING: Warn, Severity.ADVICE: Info}


def doctor(app_configs: object, **_: Any) -> list[CheckMessage]:  # noqa: ARG001 - Django's signature
    """Let the doctor judge the Celery application, as ``holdfast doctor`` does; with ``--deploy`` only.

    Each finding has its rule as id, for instance ``holdfast.HF101``, for Django's ``SILENCED_SYSTEM_CHECKS``.

    Args:
        app_configs: the apps to check; the doctor judges the whole project.
    """
    try:
        app = application()
    except CommandError as error:
        return [Warn(str(error), id="holdfast.W001")]
    app.loader.import_default_modules()
    spell = Subject(app).spell
    found: list[CheckMessage] = []
    for one in examine(app):
        kind = KINDS[one.rule.severity] if one.state is State.FOUND else Warn
        text = f"{spell(one.found)}. What it loses: {one.rule.loss}."
        found.append(kind(text, hint=spell(one.rule.fix), id=f"holdfast.{one.rule.number}", obj=app.main))
    return found

"""The start gate: a worker or beat whose settings have a fatal finding does not start. The doctor alone judges."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery.signals import beat_init, worker_init
from celery.utils.log import get_logger

from celery_doctor import Severity, State, examine, versions
from holdfast import defaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

logger = get_logger(__name__)

OPT_OUT = "HOLDFAST_ALLOW_UNSAFE"


class StartupError(RuntimeError):
    """The process must not start; the message says what is wrong and what to do."""


def check_versions() -> None:
    """Check that the installed Celery, kombu and py-amqp are recent enough.

    Raises:
        StartupError: one is older than :data:`celery_doctor.versions.MINIMUM`.
    """
    old = versions.outdated()
    if old:
        raise StartupError(f"{'; '.join(old)}: install the lock file.")


def refuse(app: Celery) -> None:
    """Look at the settings; no server is asked. A fatal rule that cannot judge refuses like one that finds something.

    What a warning finds is logged, one line each.

    Raises:
        SystemExit: a fatal rule does not pass and :data:`OPT_OUT` does not name it.
    """
    allowed = {name.strip() for name in os.environ.get(OPT_OUT, "").split(",")}
    findings = [
        one
        for one in examine(app, lambda rule: rule.severity > Severity.ADVICE)
        if not {one.rule.id, one.rule.number} & allowed
    ]
    for text in defaults.unused(app.conf):
        logger.warning("%s", text)
    for one in findings:
        if one.rule.severity is Severity.WARNING and one.state is State.FOUND:
            logger.warning("%s: %s. %s. Fix: %s", one.rule.id, one.found, one.rule.loss, one.rule.fix)
    stopping = [one for one in findings if one.rule.severity is Severity.FATAL]
    if stopping:
        lines = [
            f"  {one.rule.id}: {one.found}. {one.rule.loss}. Fix: {one.rule.fix}"
            if one.state is State.FOUND
            else f"  {one.rule.id}: {one.state.value}: {one.found}"
            for one in stopping
        ]
        names = ",".join(sorted({one.rule.number for one in stopping}))
        raise SystemExit("\n".join(["holdfast refuses to start:", *lines, f"To start anyway: {OPT_OUT}={names}"]))


def at_start(app: Celery, check: Callable[[Any], object], *signals: Any) -> None:
    """Have a check made when a worker or beat of an application starts; those of other applications do not touch it.

    The application keeps the check, the signals refer to it weakly: an application that a factory made and nobody
    needs any more goes away with it.

    Args:
        app: the application.
        check: is called with the worker or beat, whose ``app`` is the application. Celery logs an exception of a
            signal's receiver and goes on, all but ``SystemExit``: so whatever else the check raises ends the process,
            too.
        signals: of which start; by default of a worker's and of a beat's.
    """
    owner = _unwrapped(app)

    def started(sender: Any, **_: object) -> None:
        try:
            if _unwrapped(sender.app) is owner:
                check(sender)
        except Exception as error:  # a check that breaks refuses the start
            raise SystemExit(f"holdfast refuses to start: its check failed: {type(error).__name__}: {error}") from error

    vars(owner).setdefault("holdfast_checks", []).append(started)
    for signal in signals or (worker_init, beat_init):
        signal.connect(started)


def _unwrapped(app: Any) -> Any:
    """Return the application behind a proxy such as ``celery.current_app``."""
    unwrap = getattr(app, "_get_current_object", None)
    return unwrap() if callable(unwrap) else app


def install(app: Celery) -> None:
    """Check the versions now, the settings when a worker or beat of the application starts."""
    check_versions()
    at_start(app, lambda started: refuse(started.app))

"""Loads an application as a worker of it would, task modules included, and keeps its output apart from the report."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from celery.app.utils import find_app

from celery_doctor.rules import reason
from celery_doctor.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator


class CouldNotLoadError(Exception):
    """The application cannot be imported; the message is one line."""


def load(path: str) -> Subject:
    """Import the application and every module that its workers import: ``include``, ``imports``, autodiscovery.

    Args:
        path: as for ``celery -A``; the current directory is on the import path.

    Raises:
        CouldNotLoadError: an import raises or ends the process, there is no application, or its settings do not load.
    """
    try:
        app = find_app(path)
        app.loader.import_default_modules()
        return Subject(app)
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        text = reason(error)
        if not text.startswith(kind):
            text = f"{kind}: {text}"
        raise CouldNotLoadError(f"Cannot load the application {path!r}: {text}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """Say which line of a file below the current directory an error came through last; nothing when none did."""
    here = Path.cwd()
    for frame in reversed(traceback.extract_tb((error.__cause__ or error).__traceback__)):
        file = Path(frame.filename)
        if here in file.parents and "site-packages" not in file.parts:
            return f" ({file.relative_to(here)}, line {frame.lineno})"
    return ""


@contextmanager
def own_output() -> Iterator[TextIO]:
    """Yield the real standard output; whatever else the process and its children print goes to standard error.

    In a process of its own the change stays, so that what an application prints at exit is kept apart, too.
    """
    if sys.stdout is not sys.__stdout__:  # somebody captures: their stream, and only for as long as this runs
        stream = sys.stdout
        with redirect_stdout(sys.stderr):
            yield stream
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace") as stream:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        yield stream

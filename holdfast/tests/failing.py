"""What a pool's child reports of a task that failed, for tests."""

from __future__ import annotations

from billiard.einfo import ExceptionInfo


def failure(error: Exception) -> ExceptionInfo:
    """Raise an error and return what the worker gets to see of it."""
    try:
        raise error  # noqa: TRY301 - a traceback is wanted
    except Exception:  # noqa: BLE001 - as a child of the pool does
        return ExceptionInfo()

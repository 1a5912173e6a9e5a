"""Which extra of the distribution brings an optional package, and the error that names it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OF = {  # package to import: extra of celery-holdfast that brings it
    "django": "django",
    "opentelemetry": "tracing",
    "prometheus_client": "metrics",
    "redbeat": "beat",
    "sqlalchemy": "outbox",
}


class MissingExtraError(ImportError):
    """A part of the layer needs a package that is not installed.

    Args:
        package: the name under which it is imported.
    """

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed, and this part of the layer needs it. Install the extra: "
            f"pip install 'celery-holdfast[{OF[package]}]'",
            name=package,
        )


@contextmanager
def needed() -> Iterator[None]:
    """Let a missing optional package end an import with the name of its extra.

    Raises:
        MissingExtraError: a package of :data:`OF` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OF:
            raise MissingExtraError(package) from error
        raise

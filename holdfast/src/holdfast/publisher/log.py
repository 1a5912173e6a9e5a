"""The log lines of publishing. A handler that publishes log lines must not get those about its own publishing."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any


class _Here(threading.local):
    """Whether a line of this thread is on its way through the handlers."""

    logging = False


if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter  # it takes no type before Python 3.11


class Logger(Adapter):
    """A logger that is silent while one of its own lines of the same thread is being handled.

    A handler that publishes and fails would be called again for the line that says so, without an end.
    """

    def __init__(self) -> None:
        super().__init__(logging.getLogger("holdfast.publisher"), {})
        self._here = _Here()

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line, unless it is about what a handler does with the one before; all other methods end here.

        Args:
            level: of the line.
            msg: the line; the rest is as in :meth:`logging.Logger.log`.
        """
        if self._here.logging:
            return
        try:
            self._here.logging = True
            super().log(level, msg, *args, **({"stacklevel": 2} | kwargs))  # the caller's line, not this one
        finally:
            self._here.logging = False


logger = Logger()

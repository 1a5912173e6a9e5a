"""Counts each message of a worker once, and gives each log line about it the ids of its task."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry
from typing_extensions import override

from holdfast.logs import about
from holdfast.metrics import numbers
from holdfast.published import PUBLISHED_AT
from holdfast.request import Request as DurableRequest

if TYPE_CHECKING:
    from billiard.einfo import ExceptionInfo


class Request(DurableRequest):
    """:class:`holdfast.request.Request` with every way out counted and logged."""

    time_start: float | None
    _ended = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Count successes: Celery derives a class for each task, and its ``on_success`` calls nothing of this one."""
        super().__init_subclass__(**kwargs)
        settle = cls.on_success

        def on_success(self: Request, ended: tuple[int, Any, float], **kwargs: Any) -> Any:
            answer = settle(self, ended, **kwargs)
            if not ended[0]:
                self._end("succeeded", ended[2])
            return answer

        cls.on_success = on_success

    @override
    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        numbers.task_started(self.name, self._wait())

    @override
    def put_back(self) -> None:
        if not self.acknowledged:
            self._end("put_back", self._runtime())
        super().put_back()

    @override
    def reject(self, requeue: bool = False) -> None:
        if requeue and not self.acknowledged:
            self._end("put_back", self._runtime())
        super().reject(requeue)

    @override
    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> None:
        with about(self.request_dict):
            super().on_failure(exc_info, send_failed_event, return_ok)
        exc = exc_info.exception
        self._end(_state(exc.exc if isinstance(exc, ExceptionWithTraceback) else exc), self._runtime())

    @override
    def on_timeout(self, soft: bool, timeout: float) -> None:
        with about(self.request_dict):
            super().on_timeout(soft, timeout)
        if not soft:
            self._end("failed", self._runtime())

    @override
    def _success_was_stored(self) -> Any:
        meta = super()._success_was_stored()
        if meta:
            self._end("succeeded")
        return meta

    @override
    def settle_revoked(self, *args: Any) -> None:
        with about(self.request_dict):
            super().settle_revoked(*args)
        self._end("revoked", self._runtime())

    @override
    def _announce_cancelled(self, *args: Any, **kwargs: Any) -> None:
        self._end("put_back", self._runtime())  # the connection is lost: the broker hands the message out again
        super()._announce_cancelled(*args, **kwargs)

    def _end(self, state: str, runtime: float | None = None) -> None:
        if not self._ended:
            self._ended = True
            numbers.task_ended(self.name, getattr(self.message, "queue", ""), state, runtime)

    def _runtime(self) -> float | None:
        return time() - self.time_start if self.time_start else None

    def _wait(self) -> float | None:
        try:
            published = float(self.request_dict[PUBLISHED_AT])
            due = self.eta.timestamp() if self.eta else published
            return (self.time_start or time()) - max(published, due)
        except (KeyError, TypeError, ValueError):  # from a stock publisher, or from anybody
            return None


def _state(exc: BaseException) -> str:
    match exc:
        case Retry():
            return "retried"
        case Reject():
            return "dead_lettered"
        case Ignore():
            return "ignored"
        case _:
            return "failed"

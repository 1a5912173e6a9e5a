"""An expired task that waits behind busy workers: reported as REVOKED when it is due, and never run after that.

The publisher sends a notice with each task that expires and stores a result; a worker's main loop, which is never busy,
reads it when the task is due. So that no task is reported as expired that runs, and none runs that was reported, one
key in the result store decides: whoever comes first, the process that starts the task or the notice, writes it.
"""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ChannelError
from celery import bootsteps
from celery.app.task import (  # type: ignore[attr-defined]  # the function is missing in the stubs
    Context,
    get_actual_ignore_result,
)
from celery.concurrency.solo import TaskPool as SoloPool
from celery.signals import worker_init
from celery.utils.log import get_logger

from holdfast.expiry import remaining
from holdfast.request import PutBack
from holdfast.startup import at_start
from holdfast.wakeup import WakeUp

if TYPE_CHECKING:
    from celery import Celery, Task

logger = get_logger(__name__)

SETTING = "holdfast_expired_queue"
PREFETCH = 200  # notices that wait here for one confirmation of the store
WAIT = 0.05  # seconds for which the first one waits for others
AGAIN = 2.0  # seconds until a store that was away is asked again, and a notice that came early is looked at
OLD = timedelta(hours=12)  # a notice this late says nothing: the claim of the task's start may be gone (a day later)


class Notices(bootsteps.StartStopStep):
    """Reads notices and stores REVOKED for the tasks that no worker has started.

    Where the queue of notices is missing or may not be read, the worker does without: then REVOKED is stored when a
    worker receives the task itself. So it does where the main loop runs the tasks and has no time for notices.
    """

    def __init__(self, c: Any) -> None:
        super().__init__(c)
        self._c = c
        self._queue = None if isinstance(c.pool, SoloPool) else c.app.conf.get(SETTING)
        self._wake = WakeUp(c.timer, self._settle)
        self._batch: deque[Any] = deque()  # without an event loop the timer is a thread of its own

    def start(self, c: Any) -> None:
        """Begin with a fresh connection; what was received over the last one is handed out again."""
        self.stop(c)
        if not self._queue or c.connection.transport.driver_type != "amqp":
            return
        channel = c.connection.channel()
        try:
            channel.basic_qos(0, PREFETCH, False)
            channel.basic_consume(self._queue, callback=self._received)
        except ChannelError as error:
            logger.warning(
                "Notices of expired tasks cannot be read from queue %s (%s): REVOKED is stored late when all workers "
                "are busy. Apply the broker's definitions, or set %s to None",
                self._queue,
                error,
                SETTING,
            )

    def stop(self, c: Any) -> None:  # noqa: ARG002 - Celery's parameter
        """Settle nothing more; the connection is gone or going."""
        self._wake.cancel()
        self._batch.clear()

    shutdown = stop

    def _received(self, message: Any) -> None:
        self._batch.append(message)
        self._wake.within(WAIT)

    def _settle(self) -> None:
        batch = [self._batch.popleft() for _ in range(len(self._batch))]
        due: dict[Any, list[tuple[Any, Context]]] = {}
        for message in batch:
            context = Context(message.properties.get("application_headers") or {})
            left = remaining(context.expires)
            if left is not None and left >= timedelta(0):  # by this machine's clock
                self._batch.append(message)
                continue
            backend = self._backend(context)
            if left is None or left < -OLD or backend is None:
                self._acknowledge(message)
            else:
                due.setdefault(backend, []).append((message, context))
        for backend, some in due.items():
            self._store(backend, some)
        if self._batch:
            self._wake.within(AGAIN)

    def _store(self, backend: Any, some: list[tuple[Any, Context]]) -> None:
        try:
            stored = backend.revoke_unstarted([context for _, context in some], "expired")
        except PutBack as error:
            logger.warning("Expired tasks are reported later: %s", error.reason)
            self._batch.extend(message for message, _ in some)
            return
        except Exception as error:  # noqa: BLE001 - whatever a notice contains, it must not end the worker
            logger.warning("Expired tasks are reported when a worker receives them: %r", error)
        else:
            logger.info("%s of %s tasks have expired before a worker could start them", len(stored), len(some))
        for message, _ in some:
            self._acknowledge(message)

    def _acknowledge(self, message: Any) -> None:
        message.channel.basic_ack(message.delivery_tag)

    def _backend(self, context: Context) -> Any:
        """Return where the state of a task is stored; None when nothing is to be stored."""
        app = self._c.app
        task: Any = app.tasks.get(getattr(context, "task", None))
        ignored = get_actual_ignore_result(task, context) if task is not None else context.ignore_result is None
        backend = app.backend if task is None else task.backend
        return backend if not ignored and hasattr(backend, "revoke_unstarted") else None


def claim(task: Task[Any, Any]) -> None:
    """Note in the result store that a task begins which might be reported as expired meanwhile.

    Args:
        task: what is about to run in this process.

    Raises:
        PutBack: it was reported already, or the store is away. The message returns to its queue; the next worker finds
            the task expired.
    """
    request: Any = task.request
    if request.expires and not request.is_eager and not get_actual_ignore_result(task, request):
        claim_start = getattr(task.backend, "claim_start", None)
        if claim_start is not None:
            claim_start(request)


def install(app: Celery) -> None:
    """Have the workers of ``app`` claim what expires before they run it, if :data:`SETTING` names a queue."""

    def check(worker: Any) -> None:
        loader = worker.app.loader
        begin = loader.on_task_init

        def on_task_init(task_id: str, task: Task[Any, Any]) -> None:
            begin(task_id, task)
            claim(task)

        if worker.app.conf.get(SETTING):
            loader.on_task_init = on_task_init

    at_start(app, check, worker_init)

"""Publishing, waiting and the outbox for applications on asyncio: the event loop never waits for a server.

    await holdfast.aio.delay(send_invoice, order.id)

All coroutines of a process share one connection and one window of unanswered messages; one thread serves them, however
many there are. What a publish can end in is the same as without asyncio: acknowledged by the brokers, stored by the
fallback, or :class:`holdfast.NotAcknowledged`, which says why and whether a broker may have the task. When a coroutine
is cancelled meanwhile, :func:`verdict` says so, too.

On brokers without confirms (Redis) and with ``task_always_eager`` the calls run as Celery makes them, in a few threads.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import replace
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from celery.canvas import Signature
from celery.exceptions import TimeoutError as ResultTimeout
from kombu.utils.uuid import uuid

from holdfast.aio.dispatch import GRACE, LATE, Call, PublishCancelled, close, dispatcher_of, in_thread
from holdfast.aio.gate import gate_here
from holdfast.publisher import NotAcknowledged
from holdfast.publisher.durable_amqp import collecting
from holdfast.publisher.many import wires_of
from holdfast.publisher.pipeline import WINDOW
from holdfast.results.waiting import ask, waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from celery import Celery, Task
    from celery.result import AsyncResult, ResultSet
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    from holdfast.aio.dispatch import Dispatcher
    from holdfast.publisher import Outcome

__all__ = [
    "PublishCancelled",
    "apply_async",
    "delay",
    "enqueue",
    "get",
    "lifespan",
    "publish_many",
    "running",
    "verdict",
]


async def delay(task: Task[Any, Any] | Signature[Any], *args: Any, **kwargs: Any) -> AsyncResult[Any]:
    """Publish a task and wait for the broker's acknowledgement.

    Args:
        task: the task, or a signature or canvas of tasks.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        The result, as ``task.delay`` returns it; await :func:`get` for its value.

    Raises:
        NotAcknowledged: the kind says why; ``maybe_published`` whether a broker may have it, or the fallback may still
            store it.
        CancelledError: the coroutine was cancelled; :func:`verdict` says whether a broker may have it.
        Exception: the message cannot be built (arguments, serializer, queue); as ``task.delay`` raises.
    """
    return await apply_async(task, args, kwargs)


async def apply_async(
    task: Task[Any, Any] | Signature[Any],
    args: Iterable[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    deadline: float | None = None,
    **options: Any,
) -> AsyncResult[Any]:
    """Publish a task with options and wait for the broker's acknowledgement.

    Args:
        task: the task, or a signature or canvas of tasks.
        args: its positional arguments.
        kwargs: its keyword arguments.
        deadline: seconds until the call ends, whatever happens (it may take half a second longer); None for the setting
            ``holdfast_publish_deadline``. It holds for the publish, not for building a canvas: a chord asks the result
            store first.
        options: those of ``Task.apply_async``: ``countdown``, ``queue``, ``task_id``, ...

    Returns:
        The result; of a chain its last task, of a chord its body, of a group a ``GroupResult``.

    Raises:
        NotAcknowledged: the kind says why; ``maybe_published`` whether a broker may have it, or the fallback may still
            store it. Of a canvas the error of the first message that was not acknowledged; others may have been.
        CancelledError: the coroutine was cancelled; :func:`verdict` says whether a broker may have it.
        Exception: the message cannot be built; as ``Task.apply_async`` raises.
    """
    app: Celery = cast("Any", task).app
    limits = deadline, options.pop("confirm_timeout", None), options.pop("timeout", None)
    args = tuple(args)
    dispatcher = None if app.conf.task_always_eager else dispatcher_of(app)
    end = monotonic() + next((limit for limit in limits if limit is not None), dispatcher.deadline if dispatcher else 0)
    if dispatcher is not None:  # before anything that takes time
        await _turn(end, options.get("task_id"))
    if isinstance(task, Signature):
        signature = task.clone(args, kwargs or {})
        signature.options.update(options)
    else:
        signature = task.signature(args, kwargs or {}, **options)
    task_id = signature.options.setdefault("task_id", uuid()) if type(signature) is Signature else None
    if dispatcher is None:
        try:
            return cast("AsyncResult[Any]", await in_thread(signature.apply_async))
        except asyncio.CancelledError as cancelled:
            raise cancelled from _cancelled(task_id, maybe_published=True)
    if task_id is None:
        seconds = end - monotonic()
        wires, result = await in_thread(lambda: _canvas(signature))
        _raise_first(await dispatcher.publish(Call(lambda _: wires, copy_context(), [None], seconds)))
        return cast("AsyncResult[Any]", result)
    parent: Any = app.current_worker_task
    if parent:  # the thread that publishes runs no task
        request = parent.request
        signature.options.update(parent_id=request.id, root_id=request.root_id or request.id)
    call = Call(lambda templates: wires_of(app, templates, signature), copy_context(), [task_id], end - monotonic())
    _raise_first(await dispatcher.publish(call))
    return app.AsyncResult(task_id)


async def publish_many(
    app: Celery[Any], signatures: Iterable[Signature[Any]], *, window: int = WINDOW, deadline: float | None = None
) -> list[Outcome]:
    """Publish signatures and return how each of their messages ended; as :func:`holdfast.publish_many` does.

    Args:
        app: an app on which ``holdfast.install`` was called.
        signatures: what to publish.
        window: how many signatures are handed over at a time; between two such parts other coroutines have their turn.
        deadline: seconds for each part (it may take half a second longer); None for the setting
            ``holdfast_publish_deadline``.

    Returns:
        The outcomes, in the order of the messages. A message without an answer in time has a ``TimedOut``; of a part
        whose turn did not come, each signature has one, with ``maybe_published`` False. ``maybe_published`` is True
        also for a message that the fallback is about to store.

    Raises:
        TypeError: ``holdfast.install`` was not called for the app, or its broker gives no confirms.
        CancelledError: the coroutine was cancelled; :func:`verdict` says whether a broker may have any of them.
    """
    if dispatcher_of(app) is None:
        raise TypeError("publish_many needs confirms, which only AMQP brokers give; publish one by one on this broker")
    source = iter(signatures)
    outcomes: list[Outcome] = []
    while part := list(islice(source, window)):
        try:
            ended = await _publish_part(app, part, deadline)
        except asyncio.CancelledError as cancelled:
            raise cancelled from (_cancelled(None, maybe_published=True) if outcomes else cancelled.__cause__)
        outcomes += [replace(outcome, index=len(outcomes) + number) for number, outcome in enumerate(ended)]
    return outcomes


async def get(
    result: AsyncResult[Any] | ResultSet, timeout: float, *, interval: float = 0.5, propagate: bool = True
) -> Any:
    """Wait for a result, through failovers, until a deadline; as :func:`holdfast.results.get` does.

    Args:
        result: of one task, or of a group.
        timeout: seconds until the deadline.
        interval: seconds between two questions at most; the first ones follow faster.
        propagate: raise the task's exception; otherwise it is returned.

    Returns:
        What the task returned; for a group a list in its order.

    Raises:
        celery.exceptions.TimeoutError: there is no result at the deadline.
        Exception: what the task raised.
    """
    until = monotonic() + timeout
    step = waiting(result, until, interval, propagate)
    while True:
        question = asyncio.ensure_future(in_thread(lambda: ask(step)))
        try:  # not wait_for, whose TimeoutError could as well be the task's own
            await asyncio.wait({question}, timeout=max(0.0, until - monotonic()) + GRACE)
            if not question.done():
                raise ResultTimeout(f"no result of {result!r} before the deadline: the store does not answer")
        finally:
            question.cancel()
        ended, value = question.result()
        if ended:
            return value
        await asyncio.sleep(value)


def verdict(error: BaseException) -> NotAcknowledged | None:
    """Say what is known about a publish that was cancelled.

        except asyncio.CancelledError as cancelled:
            known = holdfast.aio.verdict(cancelled)

    Args:
        error: the ``CancelledError``, or the ``TimeoutError`` that ``asyncio.timeout`` or ``wait_for`` made of it.

    Returns:
        What it was raised from: ``maybe_published`` says whether a broker may have the task. None when no publish was
        under way: the message was not built yet, or the coroutine waited for something else.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, NotAcknowledged):
        seen = seen.__cause__ or seen.__context__
    return seen


async def enqueue(session: AsyncSession | AsyncConnection, signature: Signature[Any]) -> str:
    """Store a task, chain, group or chord in the outbox, in the transaction of the business data.

    Args:
        session: the session or connection; the caller commits.
        signature: what to publish.

    Returns:
        The id of the result.

    Raises:
        Exception: as :func:`holdfast.outbox.enqueue`.
    """
    from holdfast import outbox  # noqa: PLC0415 - an extra, which only this function needs

    return await session.run_sync(outbox.enqueue, signature)


@asynccontextmanager
async def running(app: Celery[Any]) -> AsyncIterator[None]:
    """Prepare publishing; at the end of the block publish what is under way and close the connections.

    Without it the first publish imports the tasks and starts the thread, and the connections end with the process.

    Args:
        app: an app on which ``holdfast.install`` was called.

    Raises:
        TypeError: it was not called.
    """
    await in_thread(app.finalize)
    await in_thread(lambda: dispatcher_of(app))
    try:
        yield
    finally:
        await asyncio.shield(in_thread(lambda: close(app)))


def lifespan(app: Celery[Any]) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return a lifespan for FastAPI, Starlette and others: :func:`running` while the web application runs.

        api = FastAPI(lifespan=holdfast.aio.lifespan(app))

    Args:
        app: an app on which ``holdfast.install`` was called.
    """
    return lambda _web: running(app)


async def _turn(end: float, task_id: str | None) -> None:
    """Wait until a call may begin; see :mod:`holdfast.aio.gate`."""
    try:
        if not await gate_here().enter(end):
            raise LATE.about(task_id)
    except asyncio.CancelledError as cancelled:
        raise cancelled from _cancelled(task_id, maybe_published=False)


async def _publish_part(app: Celery, part: list[Signature[Any]], deadline: float | None) -> list[Outcome]:
    def build(templates: Any) -> Any:
        for signature in part:
            try:
                yield from wires_of(app, templates, signature)
            except Exception as error:  # noqa: BLE001 - becomes the outcome of this signature; the others go on
                yield error

    dispatcher = cast("Dispatcher", dispatcher_of(app))  # of this part: the one before may be closed meanwhile
    seconds = dispatcher.deadline if deadline is None else deadline
    task_ids = [getattr(signature, "id", None) for signature in part]
    return await dispatcher.publish(Call(build, copy_context(), task_ids, seconds))


def _canvas(signature: Signature[Any]) -> tuple[list[Any], Any]:
    with collecting() as messages:
        result = cast("Any", signature).apply_async()
    return [message.encode() for message in messages], result


def _cancelled(task_id: str | None, *, maybe_published: bool) -> PublishCancelled:
    return PublishCancelled("its coroutine was cancelled", task_id=task_id, maybe_published=maybe_published)


def _raise_first(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error

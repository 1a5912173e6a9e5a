"""Publishing from coroutines, against scripted brokers."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from contextlib import contextmanager
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest
from celery import Celery, chain, group
from celery.exceptions import TimeoutError as ResultTimeout
from kombu.exceptions import EncodeError
from loop_stall import recorded
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from test_publisher_link import Peer, ack, silent
from test_results import TROUBLES

import holdfast
from holdfast import aio, outbox, publisher
from holdfast.aio.dispatch import Call
from holdfast.outbox.table import outbox as table
from holdfast.publisher import Disconnected, Nacked, NotAcknowledged, TimedOut, Unreachable
from holdfast.publisher.many import wires_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from weakref import ReferenceType

    from test_publisher_link import Session

PATIENT = {"deadline": 20.0, "attempt": 20.0, "connect": 10.0}  # nothing is slow there but the machine


def app_of(url: str, **policy: float) -> Celery:
    app = Celery("aio", broker=url, backend="cache+memory://", set_as_current=False)
    app.conf.update({f"holdfast_publish_{name}": value for name, value in policy.items()}, broker_pool_limit=1)
    publisher.install(app)

    @app.task(name="add", shared=False)
    def add(x: int, y: int = 0) -> int:
        return x + y

    return app


@contextmanager
def scripted(*scripts: Callable[[Session, int], None], **policy: float) -> Iterator[tuple[Celery, Any, list[Peer]]]:
    """An app with one scripted broker for each script, its task, and these brokers."""
    nodes = [Peer(script) for script in scripts]
    app = app_of(";".join(f"amqp://u:p@127.0.0.1:{node.port}//" for node in nodes), **{**PATIENT, **policy})
    try:
        yield app, app.tasks["add"], nodes
    finally:
        publisher.publisher_of(app).close()  # ends waiting for a silent node
        aio.dispatch.close(app)
        for node in nodes:
            node.server.close()


def ack_after(release: threading.Event) -> Callable[[Session, int], None]:
    """A node that acknowledges when it is told to."""

    def script(session: Session, tag: int) -> None:
        if release.wait(30):
            session.ack(tag)

    return script


def test_many_coroutines_share_a_connection_and_a_thread() -> None:
    with scripted(ack) as (app, add, (node,)):

        async def run() -> tuple[list[Any], int]:
            before = threading.active_count()
            calls = [aio.apply_async(add, (n,), task_id=f"id-{n:04}") for n in range(500)]
            return await asyncio.gather(*calls), threading.active_count() - before

        results, threads = asyncio.run(run())
        assert [result.id for result in results] == [f"id-{n:04}" for n in range(500)]
        assert sorted(ids(node)) == [result.id for result in results]
        assert len(node.sessions) == 1
        assert threads <= 3, "one publishes; two belong to the scripted broker"
        assert isinstance(results[0], app.AsyncResult)


def test_the_loop_goes_on_while_the_broker_is_silent() -> None:
    def script(session: Session, tag: int) -> None:
        if tag == 1:
            session.ack(tag)

    with scripted(script, deadline=3.0, attempt=3.0) as (_, add, _nodes):

        async def run() -> tuple[list[Any], float]:
            await aio.apply_async(add, (0,), deadline=20)  # connects
            async with recorded() as stall:
                calls = [aio.delay(add, n) for n in range(50)]
                return await asyncio.gather(*calls, return_exceptions=True), stall.longest

        started = monotonic()
        errors, longest = asyncio.run(run())
        assert monotonic() - started >= 3.0
        assert {type(error) for error in errors} == {TimedOut}
        assert all(error.maybe_published for error in errors)
        assert longest < 2, "a loop that waits for the broker stands still for three seconds"


def test_a_call_whose_turn_does_not_come_ends_at_its_deadline_and_is_never_sent() -> None:
    release = threading.Event()
    with scripted(ack_after(release)) as (_, add, (node,)):

        async def run() -> tuple[NotAcknowledged, float]:
            first = asyncio.create_task(aio.apply_async(add, (1,), task_id="id-0001"))
            await until(lambda: node.published)
            started = monotonic()
            with pytest.raises(TimedOut) as caught:
                await aio.apply_async(add, (2,), task_id="id-0002", deadline=0.2)
            took = monotonic() - started
            release.set()
            await first
            await aio.apply_async(add, (3,), task_id="id-0003")
            return caught.value, took

        error, took = asyncio.run(run())
        assert (error.task_id, error.maybe_published) == ("id-0002", False)
        assert 0.2 <= took < 10, "the first call has three times as long"
        assert ids(node) == ["id-0001", "id-0003"]


@pytest.mark.parametrize("sent", [True, False])
def test_a_cancelled_call_says_whether_a_broker_may_have_it(sent: bool) -> None:
    release = threading.Event()
    with scripted(ack_after(release)) as (_, add, (node,)):

        async def run() -> NotAcknowledged | None:
            first = asyncio.create_task(aio.apply_async(add, (1,), task_id="id-0001"))
            await until(lambda: node.published)
            second = asyncio.create_task(aio.apply_async(add, (2,), task_id="id-0002"))
            await asyncio.sleep(0)
            victim = first if sent else second
            victim.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await victim
            release.set()
            await aio.apply_async(add, (3,), task_id="id-0003")
            return aio.verdict(caught.value)

        cancelled = asyncio.run(run())
        assert cancelled is not None
        assert (cancelled.task_id, cancelled.maybe_published) == ("id-0001" if sent else "id-0002", sent)
        assert ("id-0002" in ids(node)) is sent


def test_a_call_cancelled_while_its_message_is_built_is_never_sent() -> None:
    from celery.signals import before_task_publish

    building, release = threading.Event(), threading.Event()

    def hold(**_: object) -> None:
        building.set()
        release.wait(30)

    with scripted(ack) as (_, add, (node,)):

        async def run() -> NotAcknowledged | None:
            first = asyncio.create_task(aio.apply_async(add, (1,), task_id="id-0001"))
            await until(building.is_set)
            first.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await first
            release.set()
            await aio.apply_async(add, (2,), task_id="id-0002")
            return aio.verdict(caught.value)

        before_task_publish.connect(hold)
        try:
            known = asyncio.run(run())
        finally:
            release.set()
            before_task_publish.disconnect(hold)
        assert known is not None
        assert not known.maybe_published
        assert ids(node) == ["id-0002"]


def test_a_timeout_of_asyncio_stays_one_and_tells_what_is_known() -> None:
    release = threading.Event()
    with scripted(ack_after(release)) as (_, add, (node,)):

        async def run() -> NotAcknowledged | None:
            async def expire(limit: asyncio.Timeout) -> None:
                await until(lambda: node.published)
                limit.reschedule(0)

            async def call() -> None:
                async with asyncio.timeout(None) as limit:
                    expiring.append(asyncio.create_task(expire(limit)))
                    await aio.delay(add, 1)

            expiring: list[asyncio.Task[None]] = []
            with pytest.raises(TimeoutError) as caught:
                await call()
            await expiring[0]
            release.set()
            return aio.verdict(caught.value)

        known = asyncio.run(run())
        assert isinstance(known, aio.PublishCancelled)
        assert known.maybe_published


def test_a_timeout_of_wait_for_tells_what_is_known() -> None:
    """The form for Python 3.10, which has no ``asyncio.timeout``."""
    release = threading.Event()
    with scripted(ack_after(release)) as (_, add, (node,)):

        async def run() -> NotAcknowledged | None:
            publishing = asyncio.create_task(aio.delay(add, 1))
            await until(lambda: node.published)
            with pytest.raises(asyncio.TimeoutError) as caught:
                await asyncio.wait_for(publishing, 0.01)
            release.set()
            return aio.verdict(caught.value)

        known = asyncio.run(run())
        assert isinstance(known, aio.PublishCancelled)
        assert known.maybe_published


def test_what_cannot_be_built_raises_for_its_own_coroutine_only() -> None:
    with scripted(ack) as (_, add, (node,)):

        async def run() -> list[Any]:
            calls = [aio.delay(add, object()), aio.delay(add), aio.delay(add, 1), aio.delay(add, 1, nothing=2)]
            return [*await asyncio.gather(*calls, return_exceptions=True)]

        unserialisable, missing, good, unknown = asyncio.run(run())
        assert isinstance(unserialisable, EncodeError)
        assert isinstance(missing, TypeError)
        assert isinstance(unknown, TypeError)
        assert good.id
        assert len(node.published) == 1


def test_the_verdict_is_the_one_of_the_synchronous_publisher() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    app = app_of(f"amqp://u:p@127.0.0.1:{port}//", deadline=0.5)
    with pytest.raises(Unreachable) as unreachable:
        asyncio.run(aio.delay(app.tasks["add"], 1))
    assert not unreachable.value.maybe_published
    with (
        scripted(lambda session, tag: session.nack(tag), deadline=3.0) as (_, add, _nodes),
        pytest.raises(Nacked) as nacked,
    ):
        asyncio.run(aio.delay(add, 1))
    assert not nacked.value.maybe_published


def test_the_fallback_stores_what_no_broker_took() -> None:
    stored: list[Any] = []
    with scripted(lambda session, tag: session.nack(tag), deadline=3.0) as (app, add, _):
        publisher.publisher_of(app).fallback = stored.append
        result = asyncio.run(aio.delay(add, 1))
        assert [message.task_id for message in stored] == [result.id]


def test_many_signatures_have_an_outcome_each_in_their_order() -> None:
    with scripted(ack) as (app, add, (node,)):
        signatures = [add.s(n) for n in range(250)]
        signatures[7] = add.s(object())
        outcomes = asyncio.run(aio.publish_many(app, signatures, window=100))
        assert [outcome.index for outcome in outcomes] == list(range(250))
        assert [outcome.index for outcome in outcomes if not outcome.acknowledged] == [7]
        assert isinstance(outcomes[7].error, EncodeError)
        assert len(node.published) == 249


def test_what_is_known_of_each_message_outlives_the_deadline_of_its_part() -> None:
    release = threading.Event()

    def script(session: Session, tag: int) -> None:
        session.ack(tag) if tag < 5 else session.nack(tag)

    with scripted(script) as (app, add, (node,)):
        publisher.publisher_of(app).fallback = lambda _: release.wait(30)  # type: ignore[assignment]  # a fake

        async def run() -> tuple[list[Any], list[Any]]:
            await aio.apply_async(add, (9,), task_id="id-0009")  # connects: the deadline below is for publishing alone
            signatures = [add.s(n).set(task_id=f"id-{n:04}") for n in range(6)]
            outcomes = await aio.publish_many(app, signatures, window=2, deadline=3)
            return outcomes, await aio.publish_many(app, signatures[4:], deadline=0.1)

        try:
            stuck, waiting = asyncio.run(run())
        finally:
            release.set()
        assert [outcome.index for outcome in stuck] == list(range(6))
        assert [outcome.task_id for outcome in stuck] == [f"id-{n:04}" for n in range(6)]
        assert [outcome.acknowledged for outcome in stuck] == [True, True, True, False, False, False]
        assert [type(outcome.error) for outcome in stuck[3:]] == [TimedOut] * 3
        assert [outcome.error.maybe_published for outcome in stuck[3:]] == [True, False, False]
        assert [outcome.error.maybe_published for outcome in waiting] == [False, False]
        assert [outcome.error.task_id for outcome in waiting] == ["id-0004", "id-0005"]
        aio.dispatch.close(app)
        assert set(ids(node)) == {f"id-{n:04}" for n in (0, 1, 2, 3, 9)}, "what was given up is never sent"


def test_what_is_known_of_each_message_outlives_a_failure_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(lambda session, tag: session.ack(tag) if tag < 3 else session.nack(tag)) as (app, add, _):

        def fail(*_: object) -> bool:
            raise RuntimeError("a defect")

        monkeypatch.setattr(publisher.publisher_of(app), "store", fail)
        outcomes = asyncio.run(aio.publish_many(app, [add.s(n) for n in range(3)], deadline=3))
        assert [outcome.acknowledged for outcome in outcomes] == [True, True, False]
        assert isinstance(outcomes[2].error, Disconnected)
        assert outcomes[2].error.maybe_published
        assert outcomes[2].error.task_id == outcomes[2].task_id


def test_a_loop_that_is_closed_is_not_kept() -> None:
    with scripted(ack) as (_, add, _nodes):

        async def run() -> ReferenceType[asyncio.AbstractEventLoop]:
            await aio.delay(add, 1)
            return ref(asyncio.get_running_loop())

        loops = [asyncio.run(run()) for _ in range(3)]

        def kept() -> list[object]:
            gc.collect()
            return [loop for loop in loops if loop()]

        asyncio.run(until(lambda: not kept()))  # the publishing thread may still be returning from the last call


def test_a_call_that_comes_after_the_end_is_published_by_the_next_thread() -> None:
    release = threading.Event()
    with scripted(ack_after(release)) as (app, add, (node,)):
        ending = threading.Thread(target=aio.dispatch.close, args=[app])

        async def run() -> None:
            dispatcher = aio.dispatch.dispatcher_of(app)
            assert dispatcher is not None
            first = asyncio.create_task(aio.apply_async(add, (1,), task_id="id-0001"))
            await until(lambda: node.published)
            ending.start()
            await until(lambda: dispatcher._closed or dispatcher._calls.qsize())  # the next call comes behind the end
            second = asyncio.create_task(late(dispatcher))
            await asyncio.sleep(0)
            release.set()
            await asyncio.gather(first, second)
            await asyncio.to_thread(ending.join)
            await late(dispatcher)

        async def late(dispatcher: Any) -> None:
            signature = add.s(2).set(task_id="id-0002")
            call = Call(lambda templates: wires_of(app, templates, signature), copy_context(), ["id-0002"], 30.0)
            assert [outcome.error for outcome in await dispatcher.publish(call)] == [None]

        asyncio.run(run())
        assert ids(node) == ["id-0001", "id-0002", "id-0002"]


def test_a_close_between_two_parts_ends_neither() -> None:
    with scripted(ack) as (app, add, (node,)):

        def signatures() -> Iterator[Any]:
            yield add.s(1)
            aio.dispatch.close(app)
            yield add.s(2)

        outcomes = asyncio.run(aio.publish_many(app, signatures(), window=1, deadline=20))
        assert [outcome.acknowledged for outcome in outcomes] == [True, True]
        assert len(node.published) == 2


def test_a_canvas_returns_its_result_when_all_of_it_is_acknowledged() -> None:
    with scripted(ack) as (_, add, (node,)):

        async def run() -> tuple[Any, Any]:
            return await aio.delay(group(add.s(1), add.s(2))), await aio.apply_async(chain(add.s(1), add.s(2)))

        together, one_by_one = asyncio.run(run())
        assert len(together.results) == 2
        assert one_by_one.parent is not None
        assert len(node.published) == 3


def test_options_of_signature_and_call_reach_the_message() -> None:
    with scripted(ack) as (_, add, (node,)):
        signature = add.s(1).set(task_id="id-0007")
        assert asyncio.run(aio.delay(signature)).id == "id-0007"
        assert asyncio.run(aio.apply_async(add.s(), (1,), {"y": 2}, task_id="id-0008")).id == "id-0008"
        assert ids(node) == ["id-0007", "id-0008"]


@pytest.mark.parametrize(
    "limits",
    [
        {"deadline": 0.2, "confirm_timeout": 30.0, "timeout": 30.0},
        {"deadline": 0.0, "confirm_timeout": 30.0},
        {"confirm_timeout": 0.2, "timeout": 30.0},
        {"timeout": 0.2},
    ],
)
def test_the_first_limit_counts_and_none_is_an_option_of_the_message(limits: dict[str, Any]) -> None:
    seen: list[dict[str, Any]] = []

    def route(_name: str, _args: object, _kwargs: object, options: dict[str, Any], **_: object) -> None:
        seen.append(dict(options))

    with scripted(silent) as (app, add, _):
        app.conf.task_routes = [route]
        started = monotonic()
        with pytest.raises(NotAcknowledged):
            asyncio.run(aio.apply_async(add, (1,), **limits))
        assert monotonic() - started < 10
        asyncio.run(until(lambda: seen))  # the thread may build the message after its call has ended
        assert not {name for options in seen for name in options} & {"deadline", "confirm_timeout", "timeout"}


def test_context_variables_of_the_coroutine_hold_while_its_message_is_built() -> None:
    from contextvars import ContextVar

    from celery.signals import before_task_publish

    who: ContextVar[str] = ContextVar("who")
    seen: list[str] = []

    def note(**_: object) -> None:
        seen.append(who.get())

    with scripted(ack) as (_, add, _nodes):

        async def call(name: str) -> None:
            who.set(name)
            await aio.delay(add, 1)

        async def run() -> None:
            await asyncio.gather(call("ada"), call("grace"))

        before_task_publish.connect(note)
        try:
            asyncio.run(run())
        finally:
            before_task_publish.disconnect(note)
    assert sorted(seen) == ["ada", "grace"]


def test_without_confirms_the_task_is_published_as_celery_does() -> None:
    app = app_of("memory://")
    assert asyncio.run(aio.delay(app.tasks["add"], 1)).id
    with pytest.raises(TypeError, match="only AMQP brokers"):
        asyncio.run(aio.publish_many(app, [app.tasks["add"].s(1)]))


def test_an_eager_task_runs_and_the_loop_goes_on() -> None:
    app = app_of("amqp://u:p@127.0.0.1:1//")
    app.conf.task_always_eager = True
    result = asyncio.run(aio.delay(app.tasks["add"], 1, 2))
    assert asyncio.run(aio.get(result, 5)) == 3


def test_an_app_without_the_layer_is_refused() -> None:
    app = Celery("stock", broker="amqp://u:p@127.0.0.1:1//", set_as_current=False)
    with pytest.raises(TypeError, match=r"call holdfast\.install"):
        asyncio.run(aio.delay(app.signature("t")))


def test_the_lifespan_publishes_what_is_under_way_and_another_one_begins_anew() -> None:
    with scripted(ack) as (app, add, (node,)):
        life = aio.lifespan(app)

        async def run() -> None:
            async with life(None):
                calls = [asyncio.create_task(aio.delay(add, n)) for n in range(20)]
                await asyncio.sleep(0)
            await asyncio.gather(*calls)

        for times in (1, 2):
            asyncio.run(run())
            assert len(node.published) == 20 * times


def test_a_forked_child_has_a_thread_of_its_own() -> None:
    with scripted(ack) as (_, add, (node,)):
        asyncio.run(aio.delay(add, 1))
        child = os.fork()
        if not child:
            try:
                asyncio.run(aio.apply_async(add, (2,), task_id="id-0099"))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert "id-0099" in ids(node)


class TestGet:
    def test_a_result_that_comes_later_is_returned(self) -> None:
        app = app_of("memory://")

        async def run() -> Any:
            result = app.AsyncResult("some-id")
            asked = threading.Event()
            ready = result.ready
            result.ready = lambda: (ready(), asked.set())[0]  # type: ignore[method-assign, func-returns-value]  # fake
            waiting = asyncio.create_task(aio.get(result, 20))
            await until(asked.is_set)
            app.backend.store_result("some-id", 42, "SUCCESS")
            return await waiting

        assert asyncio.run(run()) == 42

    def test_a_failed_task_raises_and_one_that_does_not_end_times_out(self) -> None:
        app = app_of("memory://")
        app.backend.store_result("failed", ValueError("no"), "FAILURE")
        with pytest.raises(ValueError, match="no"):
            asyncio.run(aio.get(app.AsyncResult("failed"), 5))
        with pytest.raises(ResultTimeout):
            asyncio.run(aio.get(app.AsyncResult("never"), 0.2))

    @pytest.mark.parametrize("kind", TROUBLES)
    def test_an_error_of_the_task_is_never_taken_for_one_of_the_wait(self, kind: type[Exception]) -> None:
        app = app_of("memory://")
        app.backend.store_result("failed", kind("the supplier does not answer"), "FAILURE")
        with pytest.raises(kind, match="the supplier does not answer"):
            asyncio.run(aio.get(app.AsyncResult("failed"), 20))
        kept = asyncio.run(aio.get(app.AsyncResult("failed"), 20, propagate=False))
        assert isinstance(kept, kind)

    def test_a_store_that_does_not_answer_stops_neither_the_loop_nor_the_deadline(self) -> None:
        app = app_of("memory://")
        release = threading.Event()
        result = app.AsyncResult("some-id")
        result.ready = lambda: release.wait(30)  # type: ignore[method-assign]  # a fake

        async def run() -> float:
            async with recorded() as stall:
                with pytest.raises(ResultTimeout):
                    await aio.get(result, 0.3)
            release.set()
            return stall.longest

        started = monotonic()
        assert asyncio.run(run()) < 10
        assert monotonic() - started < 20, "the store answers after 30 s"


@pytest.fixture
def engine(tmp_path: Path) -> AsyncEngine:
    """A database of an asyncio application, with the outbox."""
    return create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.sqlite3")


@pytest.mark.parametrize("commit", [True, False])
def test_enqueue_belongs_to_the_transaction_of_the_async_session(engine: AsyncEngine, commit: bool) -> None:
    app = app_of("amqp://u:p@127.0.0.1:1//")

    async def run() -> int:
        async with engine.begin() as connection:
            await connection.run_sync(outbox.metadata.create_all)
        async with AsyncSession(engine) as session:
            assert await aio.enqueue(session, app.tasks["add"].s(1))
            await (session.commit() if commit else session.rollback())
        async with engine.begin() as connection:
            await aio.enqueue(connection, app.tasks["add"].s(2))
            found = (await connection.execute(select(func.count()).select_from(table))).scalar_one()
        await engine.dispose()
        return int(found)

    assert asyncio.run(run()) == 1 + commit


def test_an_async_session_in_the_synchronous_enqueue_is_refused(engine: AsyncEngine) -> None:
    app = app_of("amqp://u:p@127.0.0.1:1//")
    session: Any = AsyncSession(engine)
    with pytest.raises(TypeError, match=r"await holdfast\.aio\.enqueue"):
        outbox.enqueue(session, app.tasks["add"].s(1))


def test_the_module_is_part_of_the_package() -> None:
    assert holdfast.aio is aio


def ids(node: Peer) -> list[str]:
    """The ids that a broker got; in messages of Celery another property follows them."""
    return [task[: len("id-0000")] for task in node.published]


async def until(probe: Callable[[], object]) -> None:
    """Wait for a condition without holding up the loop."""
    end = monotonic() + 30
    while not probe():
        assert monotonic() < end
        await asyncio.sleep(0.01)

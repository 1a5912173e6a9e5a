"""One trace from the caller through broker or outbox to the task, its retry and what it publishes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ImproperlyConfigured
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import create_engine

from holdfast import outbox, publisher, tracing
from holdfast.app import install
from holdfast.extras import MissingExtraError
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.relay import Relay
from holdfast.outbox.send import sender
from holdfast.outbox.store import EngineRows
from holdfast.publisher.durable_amqp import collecting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    """Where the spans of this process arrive."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    instrumentor: Any = CeleryInstrumentor()
    instrumentor.uninstrument()


@pytest.fixture
def app(exporter: InMemorySpanExporter) -> Celery:
    app = Celery("traced", broker="memory://", backend="cache+memory://")
    app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)  # else the worker refuses to start
    install(app)

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="again", bind=True, shared=False)
    def again(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)
        add.delay(1, 1)

    app.set_current()
    tracing.instrument(app)
    exporter.clear()
    return app


def spans(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    """Return the finished spans by name."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def number(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def test_a_task_its_retry_and_what_it_publishes_belong_to_the_callers_trace(
    app: Celery, exporter: InMemorySpanExporter
) -> None:
    with (
        start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=60),
        trace.get_tracer("test").start_as_current_span("web request") as request,
    ):
        app.tasks["again"].delay().get(timeout=60, disable_sync_subtasks=False)
    found = spans(exporter)
    trace_id = request.get_span_context().trace_id
    assert {span.context.trace_id for group in found.values() for span in group if span.context} == {trace_id}
    first, second = found["run/again"]
    published, retried = found["apply_async/again"]
    assert parent(published) == request.get_span_context().span_id
    assert (parent(first), parent(retried), parent(second)) == (number(published), number(first), number(retried))
    assert parent(found["apply_async/add"][0]) == number(second)


def test_the_way_through_the_outbox_keeps_the_trace(app: Celery, exporter: InMemorySpanExporter) -> None:
    engine = create_engine("sqlite://")
    outbox.metadata.create_all(engine)
    with trace.get_tracer("test").start_as_current_span("web request") as request, engine.begin() as connection:
        task_id = outbox.enqueue(connection, app.tasks["add"].s(1, 2))
    rows = EngineRows(engine)
    assert Relay(app, rows, sender(app), Metrics(rows, 60)).once().published == 1
    with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=60):
        assert app.AsyncResult(task_id).get(timeout=60) == 3
    (ran,) = spans(exporter)["run/add"]
    assert ran.context is not None
    assert ran.context.trace_id == request.get_span_context().trace_id


def test_a_publish_that_fails_ends_its_span_and_is_nobodys_parent(app: Celery, exporter: InMemorySpanExporter) -> None:
    def fail(*_: object, **__: object) -> None:
        raise publisher.TimedOut("no answer", task_id="1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.publisher.durable_amqp.TaskProducer.publish", fail)
        with pytest.raises(publisher.TimedOut):
            app.tasks["add"].delay(1, 1)
    (span,) = spans(exporter)["apply_async/add"]
    assert not span.status.is_ok
    assert span.events[0].name == "exception"
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.usefixtures("exporter")
def test_a_message_for_rabbitmq_carries_the_trace() -> None:
    away = Celery("amqp", broker="amqp://nobody@127.0.0.1:1//", backend="cache+memory://", set_as_current=False)
    install(away)
    tracing.instrument(away)
    with trace.get_tracer("test").start_as_current_span("web request") as request, collecting() as messages:
        away.send_task("add", (1, 2))
    assert format(request.get_span_context().trace_id, "032x") in messages[0].headers["traceparent"]


def test_nothing_is_traced_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("plain", broker="memory://", set_as_current=False)
    before = app.amqp.send_task_message
    monkeypatch.delenv("HOLDFAST_TRACING", raising=False)
    tracing.install(app)
    assert app.amqp.send_task_message is before


def test_tracing_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_TRACING", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'celery-holdfast\[tracing\]'"):
        tracing.install(Celery("plain", set_as_current=False))


def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_TRACING", "yes")
    with pytest.raises(ImproperlyConfigured, match="allowed is off or otlp"):
        tracing.install(Celery("plain", set_as_current=False))

"""Traces that go on from the publisher through broker and outbox to the task and its retries. Off unless asked for.

``HOLDFAST_TRACING=otlp`` lets workers and beats send their spans to the collector that the ``OTEL_*`` variables name.
Whoever else publishes (a web application) has its own tracing set up and calls :func:`instrument`. Needs the extra
``tracing``.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from celery.signals import beat_init, worker_process_init, worker_process_shutdown

from holdfast import environment, extras

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

FLUSH = 2000  # milliseconds that a process which ends may spend on sending its last spans


def instrument(app: Celery[Any]) -> None:
    """Make spans of an app's publishes and runs, with the tracer provider of the process.

    Args:
        app: a Celery app that ``holdfast.install`` was called for.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    with extras.needed():
        from opentelemetry.instrumentation.celery import CeleryInstrumentor  # noqa: PLC0415 - optional
    instrumentor: Any = CeleryInstrumentor()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()
    amqp: Any = app.amqp
    amqp.send_task_message = _ending(amqp.send_task_message, instrumentor._trace_after_publish)


def install(app: Celery) -> None:
    """Trace the workers and beats of an app, if ``HOLDFAST_TRACING`` says so.

    Args:
        app: as for :func:`instrument`.

    Raises:
        ImproperlyConfigured: the variable has another value than ``off`` or ``otlp``.
        MissingExtraError: the extra is not installed.
    """
    if environment.choice("HOLDFAST_TRACING", ("off", "otlp")) == "off":
        return
    with extras.needed():
        from opentelemetry import trace  # noqa: PLC0415 - optional
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional

    def start(**_: object) -> None:
        # in each child for itself: the thread that sends the spans does not survive a fork
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
        worker_process_shutdown.connect(lambda **_: provider.force_flush(FLUSH), weak=False)
        instrument(app)

    worker_process_init.connect(start, weak=False)
    beat_init.connect(start, weak=False)


def _ending(send: Callable[..., Any], end: Callable[..., None]) -> Callable[..., Any]:
    """End the span of a publish that fails, too.

    The instrumentation ends it only after a success: otherwise it stays the current span, and becomes the parent of
    whatever the thread publishes from then on.
    """
    from opentelemetry import trace  # noqa: PLC0415 - optional

    @wraps(send)
    def sent(producer: Any, name: str, message: Any, **options: Any) -> Any:
        outer = trace.get_current_span()
        try:
            return send(producer, name, message, **options)
        except Exception as error:
            if (span := trace.get_current_span()) is not outer:
                span.record_exception(error)
                span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
                end(sender=name, headers=message.headers)
            raise

    return sent

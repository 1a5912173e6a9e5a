"""A trace on the real broker: from a publisher's process to the worker's children, as a collector receives it."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rig import Rig

pytestmark = pytest.mark.stack

PUBLISH = """
from holdfast import tracing
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
tracing.instrument(app)
with trace.get_tracer("test").start_as_current_span("web request") as span:
    again.delay(1)
    print(format(span.get_span_context().trace_id, "032x"))
"""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The address of a collector, and what it has received: trace and name of each span."""
    received: list[tuple[str, str]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    received.extend((span.trace_id.hex(), span.name) for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()


def test_a_task_and_its_delayed_retry_belong_to_the_publishers_trace(
    rig: Rig, collector: tuple[str, list[tuple[str, str]]]
) -> None:
    address, received = collector
    with rig.worker(HOLDFAST_TRACING="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_BSP_SCHEDULE_DELAY="200"):
        trace_id = rig.call(PUBLISH)
        expected = [(trace_id, "apply_async/scratch.again"), *[(trace_id, "run/scratch.again")] * 2]
        wait_until(lambda: sorted(received) == expected, "both runs and the retry are received")

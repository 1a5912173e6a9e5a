"""What a relay tells Prometheus, and whether it is alive, on one small HTTP port."""

from __future__ import annotations

from datetime import UTC, datetime
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer

from holdfast.outbox import store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric
    from sqlalchemy import Engine

    type StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Metrics:
    """The registry of one relay; the backlog is counted when Prometheus asks.

    Args:
        engine: the database of the outbox.
        patience: seconds without a finished pass after which ``/healthz`` answers 503.
    """

    def __init__(self, engine: Engine, patience: float) -> None:
        self._engine = engine
        self._patience = patience
        self._last_pass = monotonic()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.acknowledged = Counter(
            "holdfast_outbox_acknowledged", "Messages that the broker acknowledged.", registry=self.registry
        )
        self.failed = Counter("holdfast_outbox_failed", "Failed attempts to publish a row.", registry=self.registry)

    def passed(self) -> None:
        """Note that the relay went through its loop: database asked, broker answered or given up in time."""
        self._last_pass = monotonic()

    def describe(self) -> list[Metric]:
        """Name nothing in advance: the registry need not reach the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Count the backlog."""
        with self._engine.connect() as connection:
            backlog = store.backlog(connection)
        age = (datetime.now(UTC) - backlog.oldest).total_seconds() if backlog.oldest else 0.0
        yield GaugeMetricFamily("holdfast_outbox_waiting_rows", "Rows that wait for publishing.", backlog.waiting)
        yield GaugeMetricFamily("holdfast_outbox_oldest_age_seconds", "Age of the oldest of them.", max(age, 0.0))
        yield GaugeMetricFamily(
            "holdfast_outbox_parked_rows", "Rows that were refused too often and wait for an operator.", backlog.parked
        )
        yield GaugeMetricFamily(
            "holdfast_outbox_last_pass_age_seconds", "Time since the relay last went through its loop.", self._silence
        )

    def serve(self, host: str, port: int) -> int:
        """Answer ``/metrics`` and ``/healthz`` from a background thread.

        Args:
            host: address to listen on.
            port: TCP port, 0 for any free one.

        Returns:
            The port.

        Raises:
            OSError: the address is taken or not ours.
        """
        server = make_server(host, port, self._answer, ThreadingWSGIServer, _Quiet)
        Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return int(server.server_port)

    @property
    def _silence(self) -> float:
        return monotonic() - self._last_pass

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/healthz":
            return make_wsgi_app(self.registry)(environ, start_response)  # type: ignore[no-any-return]  # untyped
        healthy = self._silence <= self._patience
        start_response("200 OK" if healthy else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [f"last pass {self._silence:.0f} s ago, {self._patience:.0f} s are allowed\n".encode()]


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: a scrape is no event."""

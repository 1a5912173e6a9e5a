"""What a relay tells Prometheus beside the counted numbers, and whether it is alive."""

from __future__ import annotations

from datetime import datetime, timezone
from time import monotonic
from typing import TYPE_CHECKING

from holdfast import extras
from holdfast.metrics.server import Server

with extras.needed():
    from prometheus_client import Counter
    from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from holdfast.outbox.rows import Rows


class Metrics:
    """The state of one relay; the backlog is counted when Prometheus asks.

    Args:
        rows: the outbox.
        patience: seconds without a finished pass after which ``/healthz`` answers 503.
    """

    acknowledged = Counter("holdfast_outbox_acknowledged", "Messages that the broker acknowledged.")
    failed = Counter("holdfast_outbox_failed", "Failed attempts to publish a row.")

    def __init__(self, rows: Rows, patience: float) -> None:
        self._rows = rows
        self._patience = patience
        self._last_pass = monotonic()

    def passed(self) -> None:
        """Note that the relay went through its loop: database asked, broker answered or given up in time."""
        self._last_pass = monotonic()

    def collect(self) -> Iterator[Metric]:
        """Count the backlog."""
        backlog = self._rows.backlog()
        age = (datetime.now(timezone.utc) - backlog.oldest).total_seconds() if backlog.oldest else 0.0
        yield GaugeMetricFamily("holdfast_outbox_waiting_rows", "Rows that wait for publishing.", backlog.waiting)
        yield GaugeMetricFamily("holdfast_outbox_oldest_age_seconds", "Age of the oldest of them.", max(age, 0.0))
        yield GaugeMetricFamily(
            "holdfast_outbox_parked_rows", "Rows that were refused too often and wait for an operator.", backlog.parked
        )
        yield GaugeMetricFamily(
            "holdfast_outbox_last_pass_age_seconds", "Time since the relay last went through its loop.", self._silence
        )

    def health(self) -> tuple[bool, str]:
        """Return whether the relay goes through its loop, and a sentence about it."""
        silence = self._silence
        return silence <= self._patience, f"last pass {silence:.0f} s ago, {self._patience:.0f} s are allowed"

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
        server = Server(host, port, self, health=self.health)
        server.start()
        return server.server_port

    @property
    def _silence(self) -> float:
        return monotonic() - self._last_pass

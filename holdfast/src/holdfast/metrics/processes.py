"""What the heartbeat of a worker or beat knows, as metrics; and the page where Prometheus finds them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery.worker import state
from prometheus_client.core import GaugeMetricFamily

from holdfast.audit.latest import Latest
from holdfast.metrics import numbers, server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from holdfast.audit.latest import Verdict
    from holdfast.pulse import Pulse


class PulseCollector:
    """Reads a heartbeat when Prometheus asks.

    Attributes:
        pulse: the one that the process keeps.
    """

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse

    def collect(self) -> Iterator[Metric]:
        """Return the state of the process."""
        return self._beat() if self.pulse.kind == "beat" else self._worker()

    def _beat(self) -> Iterator[Metric]:
        pulse = self.pulse
        yield GaugeMetricFamily(
            "holdfast_beat_last_tick_timestamp_seconds", "When beat last went through its loop.", pulse.time
        )
        yield GaugeMetricFamily(
            "holdfast_beat_active", "1 for the beat that holds the lock and sends the ticks.", pulse.state == "active"
        )

        yield GaugeMetricFamily(
            "holdfast_beat_entries_refused",
            "Entries of the schedule that beat leaves out; its log names them.",
            numbers.Beat.refused,
        )
        if Latest.verdict is not None:
            yield from _audit(Latest.verdict)

    def _worker(self) -> Iterator[Metric]:
        consuming = GaugeMetricFamily(
            "holdfast_worker_consuming", "1 when the worker consumes and the broker confirms it.", labels=["queue"]
        )
        for queue in self.pulse.queues.keys() - self.pulse.paused.keys():
            consuming.add_metric([queue], self.pulse.consumes(queue))
        yield consuming
        paused = GaugeMetricFamily(
            "holdfast_worker_paused_timestamp_seconds",
            "Since when a queue is cancelled by remote control, for a queue that is.",
            labels=["queue"],
        )
        for name, since in tuple(self.pulse.paused.items()):
            paused.add_metric([name], since)
        yield paused
        active = len(state.active_requests)
        yield GaugeMetricFamily("holdfast_worker_active", "Tasks that run now.", active)
        yield GaugeMetricFamily(
            "holdfast_worker_prefetched",
            "Messages that the worker holds and has not begun.",
            max(0, len(state.reserved_requests) - active),
        )
        yield GaugeMetricFamily(
            "holdfast_worker_last_progress_timestamp_seconds",
            "When the worker last began or ended a task; its start when it has done neither.",
            numbers.Progress.at,
        )


def _audit(verdict: Verdict) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "holdfast_tasks_unaccounted",
        "Acknowledged tasks of the last day that have not ended, and that nothing holds.",
        verdict.unaccounted,
    )
    yield GaugeMetricFamily(
        "holdfast_tasks_undecided",
        "Tasks that have not ended, and that may be among the dead letters.",
        verdict.undecided,
    )
    yield GaugeMetricFamily(
        "holdfast_audit_oldest_open_age_seconds",
        "Age of the oldest minute of which a task has not ended; 0 when there is none.",
        verdict.oldest,
    )
    yield GaugeMetricFamily("holdfast_audit_last_look_timestamp_seconds", "When the auditor last looked.", verdict.at)


_served: list[PulseCollector] = []  # at most one


def show(pulse: Pulse) -> None:
    """Serve the metrics of the process with this heartbeat, if ``HOLDFAST_METRICS_PORT`` is set.

    Args:
        pulse: its heartbeat; a later one takes its place (celery beat makes a scheduler for its banner, then another).
    """
    if numbers.PORT is None:
        return
    if _served:
        _served[0].pulse = pulse
        return
    _served.append(PulseCollector(pulse))
    address = os.environ.get("HOLDFAST_METRICS_ADDRESS") or "127.0.0.1"
    server.serve_when_free(address, numbers.PORT, *_served)

"""Metrics that no exporter has: how tasks and publishes ended, and whether workers and beat do their work.

The numbers are in prometheus_client's default registry, so an application that has a ``/metrics`` page
already shows them there. Workers, beat and the relay serve a page of their own on ``HOLDFAST_METRICS_PORT``:
docs/reference/metrics.md lists names and labels.

Counting never waits and never fails a task: :mod:`.numbers` counts, :mod:`.tally` keeps what is counted for each task,
:mod:`.files` lets a worker and its children count together, :mod:`.server` answers Prometheus from a thread of its own,
:mod:`.processes` shows what the heartbeat knows.

prometheus_client comes with the extra ``metrics``. Without it :mod:`.nothing` takes the place of what counts.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def __getattr__(name: str) -> Any:
    """Import what counts, or what counts nothing.

    Args:
        name: ``numbers`` or ``processes``.

    Raises:
        AttributeError: it is another name.
        MissingExtraError: ``HOLDFAST_METRICS_PORT`` is set, and the extra is not installed.
    """
    if name not in {"numbers", "processes"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name if find_spec('prometheus_client') else 'nothing'}")

"""What stands in for :mod:`.numbers` and :mod:`.processes` without the extra ``metrics``: nothing is counted."""

from __future__ import annotations

from holdfast import environment, extras

if environment.port("HOLDFAST_METRICS_PORT") is not None:
    raise extras.MissingExtraError("prometheus_client")


def _ignore(*_: object) -> None:
    pass


task_started = task_ended = published = result_stored = store_retried = ticked = entries_refused = show = _ignore

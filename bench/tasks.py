"""The Celery application of a worker under test; its environment says what is measured.

``BENCH_LAYER`` is 1 for ``holdfast.install``, 0 for stock Celery. ``BENCH_MONITORING`` is 0 for the layer's request
class that counts nothing. ``BENCH_EVENTS`` is 0 for a worker without task events, and ``BENCH_LATE`` is 1 for a stock
worker with late acknowledgement and a prefetch of 1.
"""

from __future__ import annotations

import os
from typing import Any

from bench import apps
from holdfast import request
from holdfast.metrics import request as counting

_changes: dict[str, Any] = {}
if os.environ.get("BENCH_EVENTS") == "0":
    _changes["worker_send_task_events"] = False
if os.environ.get("BENCH_LATE") == "1":
    _changes |= {"task_acks_late": True, "worker_prefetch_multiplier": 1}
if os.environ.get("BENCH_MONITORING") == "0":
    counting.Request = request.Request  # type: ignore[misc]  # the layer mixes in what it finds under this name
app = apps.make(layer=os.environ["BENCH_LAYER"] == "1", **_changes)

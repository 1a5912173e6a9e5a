"""The application of the worker under test; its environment says what is measured.

``BENCH_ACKS_LATE`` is 0 for early acknowledgement. ``BENCH_MONITORING`` puts the whole layer in: 1 with metrics, 0
with the request class that counts nothing. ``BENCH_EVENTS`` is 1 for task events.
"""

from __future__ import annotations

import os

from bench import apps
from holdfast import request
from holdfast.metrics import request as counting

_monitoring = os.environ.get("BENCH_MONITORING")

app = apps.make(
    layer=_monitoring is not None,
    task_acks_late=os.environ.get("BENCH_ACKS_LATE", "1") == "1",
    worker_send_task_events=os.environ.get("BENCH_EVENTS") == "1",
)
if _monitoring == "0":
    counting.Request = request.Request  # type: ignore[misc]  # the layer mixes in what it finds under this name

"""The application of the worker under test; its environment says when it acknowledges."""

from __future__ import annotations

import os

from bench import apps

app = apps.make(layer=False, task_acks_late=os.environ["BENCH_ACKS_LATE"] == "1", worker_send_task_events=False)

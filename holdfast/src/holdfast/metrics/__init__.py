"""What nobody else exports: how tasks and publishes ended, and whether workers and beat do their work.

The numbers are in prometheus_client's default registry, so an application that has a ``/metrics`` page
already shows them there. Workers, beat and the relay serve a page of their own on ``HOLDFAST_METRICS_PORT``:
docs/metrics.md lists names and labels.

Counting never waits and never fails a task: :mod:`.numbers` counts, :mod:`.tally` keeps what is counted for each task,
:mod:`.files` lets a worker and its children count together, :mod:`.server` answers Prometheus from a thread of its own,
:mod:`.processes` shows what the heartbeat knows.
"""

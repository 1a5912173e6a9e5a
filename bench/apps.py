"""The Celery applications that are compared: one with the layer as it is documented, one as stock Celery comes."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from bench.tally import nothing


def make(*, layer: bool, confirm: bool = True, **changes: Any) -> Celery:
    """Return an application with one task that does nothing.

    ``BENCH_RESULTS=1`` in the environment stores results; otherwise they are ignored.

    Args:
        layer: True calls ``holdfast.install``, as an application is told to, which brings every setting; False keeps
            Celery's own settings, and gets nothing but the addresses and the queue.
        confirm: False leaves publishing of stock Celery unconfirmed, as it is by default.
        changes: further settings.
    """
    app = Celery("bench", set_as_current=False)
    if layer:
        from holdfast import install  # noqa: PLC0415 - importing it is part of having the layer

        install(app)
    else:
        app.conf.update(_addresses())
        app.conf.broker_transport_options = {"confirm_publish": confirm}
    app.conf.update(task_ignore_result=os.environ.get("BENCH_RESULTS") != "1", **changes)
    app.task(name="bench.nothing", shared=False)(nothing)
    return app


def _addresses() -> dict[str, Any]:
    """Return where the servers are, and the queue, which is there already."""
    from holdfast import settings  # noqa: PLC0415 - what it says of the addresses; nothing of it is installed

    given = settings.read()
    names = (
        "broker_url",
        "task_queues",
        "task_default_queue",
        "task_default_exchange",
        "task_default_exchange_type",
        "task_default_routing_key",
        "task_create_missing_queues",
        "result_backend_transport_options",
    )
    return {name: given[name] for name in names} | {"result_backend": given["result_backend"].rpartition("+")[2]}

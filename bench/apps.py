"""The Celery applications that are compared: the settings of the deployment, with the layer or the stock way."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery


def make(*, layer: bool, confirm: bool = True, **changes: Any) -> Celery:
    """Return an application with one task that does nothing.

    Args:
        layer: True puts the layer in, as an application is told to.
        confirm: False leaves publishing unconfirmed, as Celery does by default.
        changes: further settings.
    """
    app = Celery("bench", set_as_current=False)
    app.config_from_object("holdfast.settings")
    app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False, **changes)
    if not confirm:
        app.conf.broker_transport_options = app.conf.broker_transport_options | {"confirm_publish": False}
    if layer:
        from holdfast.app import install  # noqa: PLC0415 - importing it is part of having the layer

        install(app)
    app.task(name="bench.nothing", shared=False)(nothing)
    return app


def nothing(*_args: Any, **_kwargs: Any) -> None:
    """Do nothing, and leave a byte in the tally when a worker does it."""
    tally = os.environ.get("BENCH_TALLY")
    if tally:
        with open(tally, "ab", buffering=0) as file:  # noqa: PTH123 - one unbuffered byte, cheaply
            file.write(b".")

"""A plugin for Celery's own integration suite: bounds each test, and with ``HOLDFAST_SUITE=layer`` adds the layer.

The suite's files stay as they are but for one condition: ``tests.stack.celery_suite`` widens it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from celery.contrib.testing import app as testing

SECONDS = float(os.environ.get("HOLDFAST_SUITE_SECONDS", "80"))  # for one test; the suite's own limit is 300


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(SECONDS), append=False)


if os.environ.get("HOLDFAST_SUITE") == "layer":
    from holdfast import install, settings

    stock: Any = testing.TestApp
    chosen = settings.read()
    chosen["result_backend_transport_options"]["min_other_sentinels"] = 0  # the suite's servers have one Sentinel

    def durable_app(*args: Any, config: dict[str, Any] | None = None, **options: Any) -> Any:
        return install(stock(*args, config={**chosen, **(config or {})}, **options))

    testing.TestApp = durable_app

"""Loaded before any test.

The folders ``holdfast`` and ``drill`` hold the packages of the same names. pytest names a test after its path and would
make a package of each folder on the way: these two have to be there first.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from kombu.transport import memory

import drill  # noqa: F401 - as above
import holdfast  # noqa: F401 - as above

if TYPE_CHECKING:
    from collections.abc import Iterator

# how long an example takes, or making one, says how busy the machine is
settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the test of upstream internals first: after an upgrade it names what makes the others fail."""
    items.sort(key=lambda item: item.path.name != "test_upstream.py")


@pytest.fixture(autouse=True)
def empty_memory_broker() -> Iterator[None]:
    """Leave no message behind: the queues of ``memory://`` belong to the process, whatever application uses them."""
    yield
    memory.Channel.queues.clear()


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """Give the level of the root logger back: a worker inside of a test sets it, and later tests read warnings."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)

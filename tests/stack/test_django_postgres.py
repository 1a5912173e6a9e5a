"""``holdfast.django`` on PostgreSQL: the contract in a process of its own, because Django is configured once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .postgres import for_django, scratch_schema
from .stack import ROOT

if TYPE_CHECKING:
    from .stack import Stack

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("zones", ["1", "0"], ids=["USE_TZ", "local time"])
def test_the_contract_holds_on_postgresql(stack: Stack, zones: str) -> None:
    with scratch_schema(stack.settings) as engine:
        database = for_django(engine)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "holdfast/tests/test_django.py", "-k", "TestDjango"],
            cwd=ROOT,
            env=os.environ | {"HOLDFAST_TEST_DATABASE": json.dumps(database), "HOLDFAST_TEST_USE_TZ": zones},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout

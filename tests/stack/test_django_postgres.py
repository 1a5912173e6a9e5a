"""``holdfast.django`` on PostgreSQL: the contract in a process of its own, because Django is configured once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from .postgres import scratch_schema
from .stack import ROOT

if TYPE_CHECKING:
    from .stack import Stack

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("zones", ["1", "0"], ids=["USE_TZ", "local time"])
def test_the_contract_holds_on_postgresql(stack: Stack, zones: str) -> None:
    url = make_url(stack.settings["WEBHOOKS_DATABASE_URL"])
    with scratch_schema(stack.settings) as engine:
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.database,
            "USER": url.username,
            "PASSWORD": url.password,
            "HOST": url.host,
            "PORT": url.port or "",
            "OPTIONS": {"options": engine.url.query["options"]},
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "holdfast/tests/test_django.py", "-k", "TestDjango"],
            cwd=ROOT,
            env=os.environ | {"HOLDFAST_TEST_DATABASE": json.dumps(database), "HOLDFAST_TEST_USE_TZ": zones},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout

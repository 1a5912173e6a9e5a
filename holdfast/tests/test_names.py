"""What ``import holdfast`` gives, and what it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

import holdfast

PROBE = """
import sys
before = set(sys.modules)
import holdfast, holdfast.MODULE
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
if foreign := loaded - set(sys.stdlib_module_names) - {"holdfast"}:
    raise SystemExit(f"{sorted(foreign)} were imported")
"""


@pytest.mark.parametrize("name", holdfast.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(holdfast, name) is not None
    assert name in dir(holdfast)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'instal'"):
        holdfast.instal  # noqa: B018 - reading it is the test


@pytest.mark.parametrize(("module", "allowed"), [("pulse", True), ("watch", True), ("logs", False)])
def test_pulse_and_watch_keep_to_the_standard_library(module: str, allowed: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.replace("MODULE", module)], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is allowed, done.stderr

"""What several tests with servers of their own start them with."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ..stack import ROOT
from .broker import broker

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["broker"]  # a fixture


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered files with passwords in them, in a folder that servers can read."""
    folder = tmp_path_factory.mktemp("filled")
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)
    command = [sys.executable, ROOT / "compose/init/fill.py", "--templates", ROOT / "compose/config/secret"]
    subprocess.run([*command, "--to", folder], check=True, env=os.environ | {"HOLDFAST_NET": "192.0.2"})
    folder.chmod(0o755)
    return folder

"""What several tests with servers of their own start them with."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ..servers import image
from ..stack import ROOT
from .broker import broker

if TYPE_CHECKING:
    from pathlib import Path

    from ..servers import OwnRig

__all__ = ["broker"]  # a fixture


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered files with passwords in them, in a folder that servers can read."""
    folder = tmp_path_factory.mktemp("filled")
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)
    templates = ROOT / "compose/config/secret"
    subprocess.run(
        [sys.executable, ROOT / "compose/init/fill.py", "--templates", templates, "--to", folder],
        check=True,
        env=os.environ | {"HOLDFAST_NET": "192.0.2"},
    )
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module", params=["redis", pytest.param("valkey/valkey", marks=pytest.mark.long)])
def store(request: pytest.FixtureRequest) -> str:
    """The image of each server that may hold the results; the running stack has one of them only.

    Valkey is long: its image is built for these tests alone.
    """
    name = image(request.param)
    subprocess.run([ROOT / "scripts/images", "server", name], check=True)
    return name


@pytest.fixture
def own_environment(own_rig: OwnRig, tmp_path: Path) -> dict[str, str]:
    """The environment of an application on servers of its own."""
    pulse = {"HOLDFAST_PULSE_DIR": str(tmp_path / "pulse")}
    return own_rig.servers_environment() | {"HOLDFAST_QUEUES": own_rig.queue, "REMAP_SIGTERM": "SIGQUIT"} | pulse

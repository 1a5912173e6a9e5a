"""The environment of the checkout: what a target has installed is not removed by the next one."""

from __future__ import annotations

import shutil
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.scripts.conftest import ROOT

if TYPE_CHECKING:
    from tests.scripts.conftest import Machine


@pytest.fixture
def checkout(machine: Machine) -> Machine:
    """Return a machine whose uv makes an empty .venv, unless it is asked for a group that is not there."""
    machine.program("uv", 'case "$*" in *nosuch*) exit 2 ;; esac; mkdir -p "$UV_PROJECT_ENVIRONMENT"')
    shutil.copy(ROOT / "pyproject.toml", machine.checkout)
    return machine


def synced(machine: Machine) -> list[str]:
    """Return the groups that the last call of uv was asked for."""
    *_, last = machine.calls("uv").read_text().splitlines()
    assert last.startswith("sync ")
    words = last.split()
    return [word for before, word in pairwise(words) if before == "--group"]


def test_the_peers_of_the_bench_stay(checkout: Machine) -> None:
    for arguments, groups in (((), []), (("--group", "bench"), ["bench"]), ((), ["bench"]), ((), ["bench"])):
        run = checkout.run("env", *arguments)
        assert run.returncode == 0, run.stderr
        assert synced(checkout) == groups


def test_a_new_environment_has_no_group(checkout: Machine) -> None:
    assert checkout.run("env", "--group", "bench").returncode == 0
    shutil.rmtree(checkout.checkout / ".venv")
    assert checkout.run("env").returncode == 0
    assert synced(checkout) == []


def test_a_group_that_a_version_has_no_longer_is_forgotten(checkout: Machine) -> None:
    assert checkout.run("env", "--group", "bench").returncode == 0
    project = checkout.checkout / "pyproject.toml"
    project.write_text(project.read_text().replace("\nbench = [", "\npeers = ["))
    assert checkout.run("env").returncode == 0
    assert synced(checkout) == []


def test_a_group_that_does_not_exist_is_not_kept(checkout: Machine) -> None:
    assert checkout.run("env").returncode == 0
    assert checkout.run("env", "--group", "nosuch").returncode == 1
    assert checkout.run("env").returncode == 0
    assert synced(checkout) == []

"""Power cuts on real file systems; a machine without root or loop devices fails here, and says what it lacks."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from drill import ROOT
from drill.selftest.mutants import POWER
from drill.selftest.spare_servers import SpareServers
from drill.targets import TargetError
from drill.targets.images import COMMIT, Images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack
NAMES = ["rabbit1", "redis1"]
POWER_FOLDER = ROOT / "build/drill/spare"


def attached(folder: Path) -> str:
    """Return the lines of ``losetup`` that name a folder."""
    said = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in said.splitlines() if str(folder) in line)


class Mounted:
    """Two images, mounted as Docker would."""

    def __init__(self, folder: Path) -> None:
        self.images = Images(folder / "images")
        self.images.check()
        self._devices = self.images.make(NAMES, "300m")
        self._places = {name: folder / name for name in NAMES}

    def up(self) -> None:
        for name, place in self._places.items():
            place.mkdir(exist_ok=True)
            subprocess.run(["mount", "-o", f"commit={COMMIT}", self._devices[name], place], check=True)

    def down(self) -> None:
        for place in self._places.values():
            subprocess.run(["umount", place], check=True)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    found = Mounted(tmp_path)
    found.up()
    yield found
    found.images.remove()
    assert not attached(tmp_path)
    assert not (tmp_path / "images").exists()


def test_a_cut_takes_what_no_fsync_had_written_and_nothing_else(mounted: Mounted) -> None:
    for _ in range(2):
        mounted.images.mark(NAMES)
        mounted.images.keep(NAMES)
        mounted.down()
        assert mounted.images.lose(NAMES).startswith("lost what was written without fsync: rabbit1 (0 bytes), redis1")
        mounted.up()
    mounted.down()


def test_the_control_file_of_a_cut_that_failed_does_not_spoil_the_next_one(mounted: Mounted) -> None:
    mounted.images.mark(NAMES)
    mounted.images.settle()
    mounted.images.mark(NAMES)
    mounted.images.keep(NAMES)
    mounted.down()
    assert mounted.images.lose(NAMES)


def test_a_disk_that_kept_everything_proves_no_cut(mounted: Mounted) -> None:
    mounted.images.mark(NAMES)
    mounted.images.settle()
    mounted.images.keep(NAMES)
    mounted.down()
    assert not mounted.images.lose(NAMES)


def test_servers_that_do_not_start_leave_no_disk_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(_self: SpareServers, verb: str, *_arguments: str) -> None:
        if verb == "up":
            seen.append(attached(tmp_path))
            raise TargetError("up failed")

    monkeypatch.setattr(SpareServers, "_run", run)
    assert POWER.spare
    with pytest.raises(TargetError, match="up failed"), SpareServers(tmp_path, "172.30.77", POWER.spare, {}):
        pytest.fail("it started")
    assert len(seen[0].splitlines()) == 7, "three brokers, three Redis nodes, one database"
    assert not attached(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nine_power_cuts_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drill", "power", "--seed", "1"], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not attached(POWER_FOLDER)

"""Disks that can lose power: ext4 images on loop devices of this machine, which Docker mounts as volumes.

What a file system has written is in its image file; what only its page cache holds is not. So a copy of the image that
is taken while the processes stand still is what a disk would hold after a power cut at that moment. Not modelled: the
volatile cache of a disk itself, and writes that it reorders or tears; every block that the kernel sent counts as kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from drill.targets.base import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOOLS = ("losetup", "mkfs.ext4", "debugfs", "mount", "umount")
# Seconds between commits that nobody asks for. While the images are copied only the kernel's own writeback runs; as
# long as it commits nothing, a copy that takes a while is as good as one of a single instant: the journal of all
# commits before it is whole, and a block that no fsync had covered may hold anything.
COMMIT = 300
RELEASE = 30.0  # seconds; Docker unmounts a volume once the last process of its container is gone
SYNCED, UNSYNCED = "power-synced", "power-unsynced"  # control files: what must be there afterwards, what must not
CONTROL = b"written before the power cut\n" * 1024


class Images:
    """The images of some nodes, and the loop devices that they are attached to.

    Args:
        folder: where the images are, one file per node.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self) -> None:
        """Look whether this machine can do it.

        Raises:
            TargetError: it cannot; the message names everything that is missing.
        """
        missing = [] if os.geteuid() == 0 else ["root"]
        missing += [f"the command {tool}" for tool in TOOLS if not shutil.which(tool)]
        missing += [] if Path("/dev/loop-control").exists() else ["loop devices (/dev/loop-control)"]
        systems = Path("/proc/filesystems").read_text(encoding="utf-8").split()
        missing += [] if "ext4" in systems else ["ext4 in this kernel (modprobe ext4)"]
        if missing:
            raise TargetError(
                f"A power cut cannot be made here, because this machine lacks: {', '.join(missing)}. "
                "Next: run the drill as root on a Linux machine with loop devices, beside its Docker engine."
            )

    def make(self, names: Sequence[str], size: str) -> dict[str, str]:
        """Make an empty image for each node.

        Args:
            names: of the nodes.
            size: of each file system (``4g``); the files are sparse.

        Returns:
            The loop devices by node.

        Raises:
            TargetError: a command failed, or no loop device is free.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        devices = {}
        for name in names:
            image = self._image(name)
            _run("truncate", "--size", size, str(image))
            _run("mkfs.ext4", "-q", "-m", "0", str(image))
            _run("debugfs", "-w", "-R", "rmdir lost+found", str(image))  # Docker fills an empty volume only
            devices[name] = _run("losetup", "--find", "--show", str(image)).strip()
        return devices

    def names(self) -> list[str]:
        """Return the nodes that have an image."""
        return sorted(self._devices())

    def settle(self) -> None:
        """Write out everything: what was set up before the load is old in a cluster that has run for long."""
        for device in self._devices().values():
            _run("sync", "--file-system", str(_mounted(device)))

    def mark(self, names: Sequence[str]) -> None:
        """Write a control file with ``fsync`` and one without into the file system of each node."""
        for name in names:
            place = _mounted(self._devices()[name])
            (place / UNSYNCED).unlink(missing_ok=True)  # a cut that failed left it
            with (place / SYNCED).open("wb") as file:
                file.write(CONTROL)
                file.flush()
                os.fsync(file.fileno())
            folder = os.open(place, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        for name in names:  # last, and new: nothing but an fsync of its own would bring its content to the disk now
            (_mounted(self._devices()[name]) / UNSYNCED).write_bytes(CONTROL)

    def keep(self, names: Sequence[str]) -> None:
        """Copy what the disks hold; the processes that write to them must stand still."""
        for name in names:
            image = self._image(name)
            _run("cp", "--reflink=auto", "--sparse=always", str(image), str(image.with_suffix(".cut")), timeout=300)

    def lose(self, names: Sequence[str]) -> str:
        """Put the copies of :meth:`keep` in place of the images; no process may use them any more.

        Returns:
            What the control files say, in words; empty unless on each disk what was written with ``fsync`` is there and
            what was written without is not.
        """
        devices = self._devices()
        good = []
        for name in names:
            image = self._image(name)
            _release(devices[name])
            image.with_suffix(".cut").replace(image)
            _run("losetup", devices[name], str(image))
            with self._looked_into(devices[name]) as place:
                synced, unsynced = (_content(place / control) for control in (SYNCED, UNSYNCED))
                for control in (SYNCED, UNSYNCED):
                    (place / control).unlink(missing_ok=True)
            if synced == CONTROL and not unsynced.strip(b"\0"):
                good.append(f"{name} ({len(unsynced)} bytes)")
        if len(good) < len(names):
            return ""
        return f"lost what was written without fsync: {', '.join(good)}; with fsync, all {len(CONTROL)} bytes are there"

    def remove(self) -> None:
        """Detach the loop devices and delete the images, also those of a drill that was killed."""
        if os.path.ismount(self._folder / "look"):
            _run("umount", str(self._folder / "look"))
        if shutil.which("losetup"):
            for device in self._devices().values():
                _release(device)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _image(self, name: str) -> Path:
        return self._folder.resolve() / f"{name}.img"

    def _devices(self) -> dict[str, str]:
        """Return the loop devices by node, as the kernel knows them: the drill's processes share nothing else."""
        said = _run("losetup", "--list", "--json", "--output", "NAME,BACK-FILE")
        found = json.loads(said)["loopdevices"] if said.strip() else []
        files = {one["back-file"].removesuffix(" (deleted)"): one["name"] for one in found if one["back-file"]}
        folder = self._folder.resolve()
        return {Path(file).stem: device for file, device in files.items() if Path(file).parent == folder}

    @contextmanager
    def _looked_into(self, device: str) -> Iterator[Path]:
        """Mount a device that nothing else uses; its journal is replayed."""
        place = self._folder / "look"
        place.mkdir(exist_ok=True)
        _run("mount", device, str(place))
        try:
            yield place
        finally:
            _run("umount", str(place))


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _mounts(device: str) -> list[Path]:
    """Return where a device is mounted."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [Path(line.split()[1]) for line in lines if line.split()[0] == device]


def _mounted(device: str) -> Path:
    found = _mounts(device)
    if not found:
        raise TargetError(f"{device} is mounted nowhere that this machine sees: its Docker engine runs elsewhere.")
    return found[0]


def _release(device: str) -> None:
    """Detach a device once it is no longer mounted; a busy one would be detached at an unknown time."""
    deadline = time.monotonic() + RELEASE
    while _mounts(device):
        if time.monotonic() > deadline:
            raise TargetError(f"{device} is still mounted at {_mounts(device)[0]} after {RELEASE:g} s.")
        time.sleep(0.05)
    _run("losetup", "--detach", device)
    while device in _run("losetup", "--list", "--noheadings", "--output", "NAME").split():
        if time.monotonic() > deadline:
            raise TargetError(f"{device} is still in use after {RELEASE:g} s.")
        time.sleep(0.05)


def _run(*command: str, timeout: float = 60) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetError(f"{' '.join(command[:3])}: {error}") from error
    if done.returncode:
        raise TargetError(f"{' '.join(command)[:200]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout

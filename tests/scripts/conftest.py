"""A machine to run the scripts on: a checkout of its own and a PATH with chosen programs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ABSENT = ("apt", "docker", "dpkg", "podman", "python", "uv")  # programs that a test brings itself or must not find


class Machine:
    """A checkout of its own and a PATH on which only chosen programs are.

    Attributes:
        checkout: folder that holds a copy of ``scripts``.
        bin: the only folder on PATH.
    """

    def __init__(self, folder: Path) -> None:
        """Make both below ``folder``."""
        self.checkout = folder / "checkout"
        self.bin = folder / "bin"
        self.bin.mkdir()
        shutil.copytree(ROOT / "scripts", self.checkout / "scripts")
        shutil.copytree(ROOT / "compose/images", self.checkout / "compose/images")
        for path in (*(ROOT / "compose").glob("broker-*.yaml"), *(ROOT / "compose").glob("results-*.yaml")):
            shutil.copy(path, self.checkout / "compose")
        for tool in Path("/usr/bin").iterdir():
            if not tool.name.startswith(ABSENT):
                (self.bin / tool.name).symlink_to(tool)
        (self.bin / "python3").symlink_to(sys.executable)  # not a version manager's own script
        for path in (*folder.parents, folder):
            if path.stat().st_uid == os.getuid() and path != Path("/"):
                path.chmod(path.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)

    def program(self, name: str, script: str) -> None:
        """Put a shell script on PATH; it notes each call in a file of its name."""
        path = self.bin / name
        path.unlink(missing_ok=True)  # it may be a link to the machine's own program, which must not be written
        path.write_text(f'#!/usr/bin/env bash\necho "$*" >>"{self.calls(name)}"\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> Path:
        """Return the file in which the calls of ``name`` are noted."""
        return self.bin.parent / f"{name}.calls"

    def docker(self, *, compose: str = "2.40.3", engine: str = "26.1.5", running: str = "", volumes: str = "") -> None:
        """Put a Docker on PATH with these versions; the others are lists that it prints."""
        self.program(
            "docker",
            f"""
            case "$*" in
              "compose version --short") [[ -n "{compose}" ]] && echo "{compose}" ;;
              "version --format"*) echo "{engine}" ;;
              "info --format"*) echo "{self.checkout}" ;;
              ps*) echo "{running}" ;;
              "volume ls"*) echo "{volumes}" ;;
            esac
            """,
        )

    def files(self) -> set[tuple[str, int]]:
        """Return every file of the checkout with its size."""
        return {(str(path), path.lstat().st_size) for path in self.checkout.rglob("*")}

    def run(
        self, script: str, *args: str, user: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of the checkout with nothing but this PATH."""
        return subprocess.run(
            [self.checkout / "scripts" / script, *args],
            env={"PATH": str(self.bin), "HOME": str(self.checkout)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            user=user,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine without Docker and without a package manager."""
    return Machine(tmp_path)

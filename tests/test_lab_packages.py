"""What the repository of the lab changes in a package of Debian testing, on a program and a package made here."""

from __future__ import annotations

import runpy
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from .commands import ROOT

if TYPE_CHECKING:
    from pathlib import Path

REPACK: dict[str, Any] = runpy.run_path(str(ROOT / "ansible/lab/packages/repack.py"))
OLD, NEW = 0x09691A75, 0x069691A3  # the hashes of GLIBC_2.2.5 and GLIBC_2.43, as objdump shows them
CONTROL = """\
Package: thing
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Depends: adduser, {0}
Description: thing
"""


def need(version: int, name: int) -> bytes:
    """Return a need as the linker writes it: hash, flags, index, name, distance to the next one."""
    return struct.pack("<IHHII", version, 0, 7, name, 16)


def program(*needs: bytes) -> bytes:
    return b"\x7fELF GLIBC_2.43\0GLIBC_2.2.5\0" + b"".join(needs) + b"text"


def test_a_need_of_the_new_version_becomes_one_of_the_old() -> None:
    changed = REPACK["with_old_version"](program(need(OLD, 40), need(NEW, 5)))
    assert changed == program(need(OLD, 40), need(OLD, 40))


@pytest.mark.parametrize("needs", [(), (need(OLD, 40),), (need(NEW, 5),), (need(OLD, 40), need(NEW, 5), need(NEW, 5))])
def test_a_program_of_another_shape_is_refused(needs: tuple[bytes, ...]) -> None:
    with pytest.raises(SystemExit, match=r"found \d needs of GLIBC_2\.43"):
        REPACK["with_old_version"](program(*needs))


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A package with a program and a locked user; the parameter is what it depends on."""
    tree, file = tmp_path / "tree", tmp_path / "thing.deb"
    for name, content in {
        "DEBIAN/control": CONTROL.format(request.param).encode(),
        "DEBIAN/md5sums": b"",
        "usr/bin/thing": program(need(OLD, 40), need(NEW, 5)),
        "usr/lib/sysusers.d/thing.conf": b"u! thing - - /run/thing\n",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, file], check=True, capture_output=True)
    return file


def unpacked(package: Path) -> tuple[str, bytes, str]:
    """Return its dependencies, its program and its user."""
    tree = package.parent / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    depends = (tree / "DEBIAN/control").read_text().partition("Depends: ")[2].partition("\n")[0]
    user = (tree / "usr/lib/sysusers.d/thing.conf").read_text()
    return depends, (tree / "usr/bin/thing").read_bytes(), user


@pytest.mark.parametrize("package", ["libc6 (>= 2.43)"], indirect=True)
def test_a_package_for_the_new_libc_fits_an_older_system(package: Path) -> None:
    REPACK["repack"](package)
    same = need(OLD, 40)
    assert unpacked(package) == ("adduser, libc6 (>= 2.38)", program(same, same), "u thing - - /run/thing\n")


@pytest.mark.parametrize("package", ["libc6 (>= 2.34)"], indirect=True)
def test_another_package_stays_as_it_is(package: Path) -> None:
    before = package.read_bytes()
    REPACK["repack"](package)
    assert package.read_bytes() == before

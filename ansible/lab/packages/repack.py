"""Make packages of Debian testing fit systems with an older libc and systemd: ``repack.py FILE.deb...``.

- Testing's libc 2.43 has a new version of ``sqrtf``, and programs that were linked there ask for it. This names the
  version of before in each program, and the libc with all else (2.38) as the dependency of its package.
- A user in ``sysusers.d`` that is fully locked (``u!``) becomes a plain one: systemd knows the mark from 257 on.

For a test's repository: the package keeps its own version, which other packages depend on.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from pathlib import Path

NEW, OLD = b"GLIBC_2.43", b"GLIBC_2.2.5"  # of sqrtf; the second one is that of amd64
NEEDS, TAKES = "libc6 (>= 2.43)", "libc6 (>= 2.38)"


def elf_hash(name: bytes) -> int:
    """Return the hash by which the loader compares names of versions."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        value = (value ^ (value >> 24 & 0xF0)) & 0x0FFFFFFF
    return value


def with_old_version(program: bytes) -> bytes:
    """Let the need of the new version in a program be one of the old version.

    A need (``Elf64_Vernaux``) begins with the hash of the version; its name is the third of four words.
    """
    new, old = (struct.pack("<I", elf_hash(name)) for name in (NEW, OLD))
    if (count := program.count(new)) != 1 or old not in program:
        raise SystemExit(
            f"found {count} needs of {NEW.decode()} in a program; allowed: one, beside one of {OLD.decode()};"
            " next: see what else is new (objdump -T)"
        )
    at, there = program.index(new), program.index(old)
    return program[:at] + old + program[at + 4 : at + 8] + program[there + 8 : there + 12] + program[at + 12 :]


def repack(package: Path) -> None:
    """Put a package that asks for the new libc in its own place, changed."""
    depends = subprocess.run(["dpkg-deb", "--field", package, "Depends"], capture_output=True, text=True, check=True)
    if NEEDS not in depends.stdout:
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
        for file in tree.rglob("*"):
            if file.is_file() and not file.is_symlink() and NEW in (content := file.read_bytes()):
                file.write_bytes(with_old_version(content))
        for text, new, old in (("DEBIAN/control", NEEDS, TAKES), ("usr/lib/sysusers.d/*", "u! ", "u ")):
            for file in tree.glob(text):
                file.write_text(file.read_text(encoding="utf-8").replace(new, old), encoding="utf-8")
        (tree / "DEBIAN/md5sums").unlink()  # dpkg makes its own
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, package], check=True)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        repack(Path(argument))

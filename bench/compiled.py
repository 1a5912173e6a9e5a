"""The client in C, ``bench/compiled.c``, which is compiled when it is asked for."""

from __future__ import annotations

import subprocess

from bench.cluster import ROOT

PROGRAM = ROOT / "build/bench-compiled"
_ADVICE = "install a C compiler and the headers of rabbitmq-c (Debian and Ubuntu: gcc, libc6-dev, librabbitmq-dev)"


def make(compiler: str = "cc") -> str:
    """Compile it.

    Args:
        compiler: what is called.

    Returns:
        What keeps it from being compiled and what to do, or an empty string.
    """
    PROGRAM.parent.mkdir(exist_ok=True)
    command = [compiler, "-std=c11", "-O2", "-o", str(PROGRAM), str(ROOT / "bench/compiled.c"), "-lrabbitmq"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return f"found no compiler {compiler!r}; {_ADVICE}"
    if done.returncode:
        return f"cannot be compiled ({done.stderr.partition('\n')[0]}); {_ADVICE}"
    return ""

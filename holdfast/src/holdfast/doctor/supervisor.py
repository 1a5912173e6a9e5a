"""Rules on a supervisor configuration: what happens to running tasks when a worker is stopped."""

from __future__ import annotations

from configparser import ConfigParser, Error
from typing import TYPE_CHECKING

from holdfast.doctor.rules import Finding, Rule, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _rule(name: str, severity: Severity, loss: str, fix: str, see: str = "") -> Rule:
    return Rule(name, severity, loss, fix, see, lambda _: None)


GROUP_STOP = _rule(
    "HF601-stopasgroup",
    Severity.FATAL,
    "a stop signals the pool's children too, and they die in the middle of their tasks",
    "stopasgroup = false",
    "celery#6541",
)
ORPHANS = _rule(
    "HF602-killasgroup",
    Severity.WARNING,
    "when supervisor kills the parent its children run on as orphans, beside their own redelivered tasks",
    "killasgroup = true",
)
KILLED_EARLY = _rule(
    "HF603-stopwaitsecs",
    Severity.WARNING,
    "supervisor kills the worker before its soft shutdown is over",
    "stopwaitsecs above worker_soft_shutdown_timeout by 10 s or more",
)
WARM_STOP = _rule(
    "HF604-remap-sigterm",
    Severity.ADVICE,
    "SIGTERM waits for every task without a limit, and supervisor then kills what is left",
    'environment = REMAP_SIGTERM="SIGQUIT"',
)
ALL = (GROUP_STOP, ORPHANS, KILLED_EARLY, WARM_STOP)


def examine_supervisor(path: Path, soft_shutdown: float) -> Iterator[Finding]:
    """Look at the Celery worker programs of a supervisor configuration.

    Args:
        path: the file.
        soft_shutdown: ``worker_soft_shutdown_timeout`` of the application, in seconds.

    Raises:
        ValueError: the file is no supervisor configuration.
        OSError: it cannot be read.
    """
    parser = ConfigParser(interpolation=None, inline_comment_prefixes=(";",), strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), str(path))
    except Error as error:
        raise ValueError(f"{path} is no supervisor configuration: {error}") from error
    for name in parser.sections():
        program = parser[name]
        command = program.get("command", "").split()
        if not name.startswith("program:") or "worker" not in command:
            continue
        if program.getboolean("stopasgroup", fallback=False):
            yield Finding(GROUP_STOP, f"{name} has stopasgroup = true")
        if not program.getboolean("killasgroup", fallback=False):
            yield Finding(ORPHANS, f"{name} has no killasgroup = true")
        patience = program.getint("stopwaitsecs", fallback=10)
        if patience < soft_shutdown + 10:
            yield Finding(
                KILLED_EARLY, f"{name} is killed after {patience} s, its soft shutdown takes {soft_shutdown:g} s"
            )
        if "REMAP_SIGTERM" not in program.get("environment", ""):
            yield Finding(WARM_STOP, f"{name} does not set REMAP_SIGTERM")

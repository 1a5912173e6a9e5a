"""Brings the supervised programs of this host up to date and proves that each does its work; prints what it changed.

A program is behind when it runs from another release than the one in force, or with other settings than its file says.
It is stopped by supervisor (a soft shutdown: nothing is lost) and started again, one after the other. Nothing is
printed when nothing is behind. Runs as root with the interpreter of the release in force, which has ``holdfast.pulse``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

CONFIGURATION = (  # those that this host has
    "/etc/holdfast/app.env",
    "/etc/holdfast/login-worker.env",
    "/etc/holdfast/login-beat.env",
    "/etc/supervisor/supervisord.conf",
    "/etc/systemd/system/supervisor.service.d/holdfast.conf",
)
UNWATCHED = {"relay", "watch"}  # they write no heartbeat: running is all there is to see


def output(*command: str) -> str:
    """Return what a command prints, whatever its exit code."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def programs() -> dict[str, tuple[str, int]]:
    """Return state and process id (0 without one) of each program."""
    found = {}
    for line in output("supervisorctl", "status").splitlines():
        name, state, *rest = line.split()
        found[name] = state, int(rest[1].rstrip(",")) if rest[:1] == ["pid"] else 0
    return found


def service_is_behind(run: Path) -> bool:
    """Say whether supervisor itself is down, or started before its files were written."""
    pid = run / "supervisord.pid"
    if not pid.exists() or output("systemctl", "is-active", "supervisor").strip() != "active":
        return True
    files = [path for path in map(Path, CONFIGURATION) if path.exists()]
    return any(path.stat().st_mtime > pid.stat().st_mtime for path in files)


def release_is_behind(pid: int, current: Path) -> bool:
    """Say whether a process was started by the interpreter of another release."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return True
    return not os.fsdecode(command[0]).startswith(f"{current}/")


def trouble(name: str, state: str, pid: int) -> str | None:
    """Return why a program is not yet proven to do its work, None when it is."""
    from holdfast import pulse  # noqa: PLC0415 - the folder must be set before

    if state != "RUNNING":
        return state.lower()
    if name in UNWATCHED:
        return None
    heartbeat = pulse.read(name)
    if heartbeat is None or heartbeat.pid != pid:
        return "no heartbeat since its start"
    if heartbeat.state == "connecting":
        return "connecting"
    return "; ".join(heartbeat.problems()) or None


def prove(seconds: float, logs: Path) -> None:
    """Wait until every program does its work; end with an error that says which one does not."""
    deadline = time.monotonic() + seconds
    while True:
        found = programs()
        reasons = {name: reason for name, (state, pid) in found.items() if (reason := trouble(name, state, pid))}
        if found and not reasons:
            return
        if time.monotonic() > deadline:
            for name, reason in reasons.items():
                print(f"{name}: {reason}; see {logs}/{name}.log", file=sys.stderr)
            raise SystemExit(f"not at work after {seconds:g} s: {', '.join(reasons) or 'supervisor does not answer'}")
        time.sleep(0.5)


def main() -> None:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wait", type=float, default=120, help="seconds until every program must be at work")
    parser.add_argument("--run", type=Path, required=True, help="folder of supervisor's socket")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the programs' logs")
    given = parser.parse_args()
    seconds, logs = given.wait, given.logs
    os.environ["HOLDFAST_PULSE_DIR"] = str(given.run / "holdfast")
    if service_is_behind(given.run):
        subprocess.run(["systemctl", "restart", "supervisor"], check=True)
        print("restarted supervisor with all programs")
        return prove(seconds, logs)
    for line in output("supervisorctl", "update").splitlines():
        print(line)
    current = Path(sys.executable).parent.parent.resolve()
    for name, (state, pid) in programs().items():
        if state in {"STOPPED", "EXITED", "FATAL"} or (pid and release_is_behind(pid, current)):
            subprocess.run(["supervisorctl", "restart", name], check=False, stdout=subprocess.DEVNULL)
            print(f"restarted {name}")
            prove(seconds, logs)
    return prove(seconds, logs)


if __name__ == "__main__":
    main()

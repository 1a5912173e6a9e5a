"""Commands on a host over SSH, as root: with the address, user, key and options that Ansible uses."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from drill.targets.base import TargetError

FAILED = 255  # what ssh itself ends with; a command on the host may, too, and is then told by what it says
OPTIONS = {
    "BatchMode": "yes",  # asks nothing: a drill has nobody to answer
    "ConnectTimeout": "5",
    "ServerAliveInterval": "5",  # a host that is gone is noticed within 15 seconds
    "ControlMaster": "auto",  # one connection per host for all commands
    "ControlPersist": "120",
}
SOCKETS = Path("~/.ansible/cp").expanduser()  # beside Ansible's own: a socket's path must be short


@dataclass(frozen=True)
class Connection:
    """The way to one host.

    Attributes:
        name: of the host, for people.
        address: that ssh connects to.
        user: who logs in; empty for whom ssh would take.
        port: of sshd; 0 for the one that ssh would take.
        key: file of the private key; empty for those that ssh would try.
        arguments: further ones of ssh, as one line of a shell.
        become: whether the user needs sudo to be root.
    """

    name: str
    address: str
    user: str = ""
    port: int = 0
    key: str = ""
    arguments: str = ""
    become: bool = True

    def command(self, script: str) -> list[str]:
        """Return the command that runs a shell script as root on the host, ending at its first error."""
        options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        options += ["-o", f"ControlPath={SOCKETS}/drill-%C"]
        options += ["-l", self.user] * bool(self.user) + ["-p", str(self.port)] * bool(self.port)
        options += ["-i", self.key] * bool(self.key) + shlex.split(self.arguments)
        root = ["sudo", "-n"] * self.become
        return ["ssh", *options, self.address, "--", shlex.join([*root, "sh", "-ec", script])]

    def run(self, script: str, timeout: float = 60) -> bytes:
        """Run a shell script as root on the host and return its output.

        Args:
            script: for ``sh``.
            timeout: seconds.

        Raises:
            TargetError: the host does not answer, or the script failed.
        """
        SOCKETS.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            done = subprocess.run(self.command(script), capture_output=True, timeout=timeout, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"{self.name} gave no answer within {timeout:g} s: {type(error).__name__}") from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
            what = "cannot be reached by ssh" if done.returncode == FAILED else f"ended {script[:100]!r} with an error"
            raise TargetError(f"{self.name} {what} ({done.returncode}): {said}")
        return done.stdout

"""Bare Debian hosts that scripts/lab makes on this machine, and the project's playbooks on them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
import yaml

from ..lab.lab import ROOT, container, described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOGS = ROOT / "build/production"
UNDER_LOAD = "the load runs"  # said by the command that the drill runs, which waits for the end of the block
CHANGED = re.compile(r"changed=[1-9]")
SHOWN = 30  # lines of a log in the message of a failure


class Lab:
    """The hosts of an inventory of the lab.

    Args:
        inventory: folder with ``hosts.yml``.
        tell: shows a line on the terminal while a test runs.

    Attributes:
        inventory, tell: as given.
        hosts: their names.
        worker: the last host of the group ``workers``.
        one_of_each: a host of a broker and one of workers, which may be the same.
    """

    def __init__(self, inventory: Path, tell: Callable[[str], None]) -> None:
        self.inventory, self.tell = inventory, tell
        everything = self.described()
        self.hosts: list[str] = list(everything["hosts"])
        self.worker: str = list(everything["children"]["workers"]["hosts"])[-1]
        self.one_of_each = sorted({"data2", self.worker})
        self._log: TextIO = sys.stdout
        self.log = Path(os.devnull)

    def described(self) -> dict[str, Any]:
        """Return what the inventory says of all hosts: ``hosts`` and ``children``."""
        return described(self.inventory)

    @contextmanager
    def logged(self, step: str) -> Iterator[None]:
        """Write what every command prints inside of the block to ``build/production/STEP.log``."""
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"{step}.log"
        with self.log.open("w", encoding="utf-8") as self._log:
            yield

    def exists(self, host: str) -> bool:
        """Tell whether a host has been made."""
        return not subprocess.run(
            ["docker", "container", "inspect", container(host)], capture_output=True, check=False
        ).returncode

    def run(self, *command: str | Path, fails: bool = False, **environment: str | Path) -> str:
        """Run a command of the checkout; the terminal shows the command and each play that it begins.

        Args:
            command: program and arguments; a path is taken from the root of the checkout.
            fails: it has to fail.
            environment: variables beside those of this process.

        Returns:
            What it has printed, standard error included.
        """
        line = shlex.join(str(word) for word in command)
        self._say(f"$ {line}")
        began, said = time.monotonic(), []
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ
            | {"INVENTORY": str(self.inventory)}
            | {name: str(environment[name]) for name in environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for text in process.stdout:
                said.append(text)
                self._write(text)
                if text.startswith("PLAY ["):
                    self.tell(f"  {text.split(' **')[0]}")
        if fails != bool(process.returncode):
            self.fail(f"{line} ended with {process.returncode} after {time.monotonic() - began:.0f} s")
        return "".join(said)

    def fail(self, found: str) -> None:
        """Fail the test, with the last lines of its log."""
        self._log.flush()
        last = self.log.read_text(encoding="utf-8").splitlines()[-SHOWN:]
        pytest.fail("\n".join([found, f"The last lines of {self.log}:", *last]), pytrace=False)

    def play(self, name: str, *options: str, fails: bool = False, **environment: str | Path) -> str:
        """Run a playbook on the hosts, see ``run``."""
        return self.run("scripts/play", name, *options, fails=fails, **environment)

    def unchanged(self, name: str, *options: str, **environment: str | Path) -> None:
        """Run a playbook whose recap must count no change on any host."""
        if CHANGED.search(self.play(name, *options, fails=False, **environment)):
            self.fail(f"{name} changed something; allowed: changed=0 on every host")

    def refuses(self, words: str, name: str, *options: str, **environment: str | Path) -> None:
        """Run a playbook that must end with these words in its message, and must have changed nothing."""
        said = self.play(name, *options, fails=True, **environment)
        if words not in said:
            self.fail(f"{name} failed without the words: {words}")
        if CHANGED.search(said):
            self.fail(f"{name} changed something before it refused; allowed: changed=0 on every host")

    def on(self, host: str, *command: str) -> str:
        """Run a command on a host as root; return what it has printed, without spaces around it."""
        return self.run("docker", "exec", container(host), *command).strip()

    @contextmanager
    def load(self) -> Iterator[None]:
        """Keep the hosts under the drill's load inside of the block: nothing may be lost, and no publish may fail."""
        end = LOGS / "end-of-load"  # the drill's programs may read from its standard input
        end.unlink(missing_ok=True)
        os.mkfifo(end)
        wait = f'echo {UNDER_LOAD}; read -r word <"$0"; test "$word" = done'
        command = [sys.executable, "-m", "drill", "beside", "--inventory", str(self.inventory), "--"]
        command += ["sh", "-c", wait, str(end)]
        self._say(f"$ {shlex.join(command[1:])}")
        with (
            end.open("r+b", buffering=0) as word,  # for both: neither end waits for the other one to open it
            subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as drill,
        ):
            assert drill.stdout is not None
            for text in drill.stdout:
                self._write(text)
                if text.strip() == UNDER_LOAD:
                    break
            else:
                self.fail("the drill ended before its load ran")
            outcome = b"failed\n"
            try:
                yield
                outcome = b"done\n"
            finally:  # it judges what was lost in either case
                word.write(outcome)
                said = drill.communicate()[0]
                self._write(said)
        self.tell(f"  {said.strip().splitlines()[-1]}")
        if drill.returncode:
            self.fail(f"the load beside ended with {drill.returncode}")

    def changed_inventory(
        self, name: str, hosts: dict[str, Any] | None = None, variables: dict[str, object] | None = None
    ) -> Path:
        """Return an inventory like this one, but for its hosts or for variables, in a folder below the logs.

        The folder is as deep as that of a tracked inventory: the variables of the lab find the checkout from there.
        """
        folder = LOGS / name
        shutil.rmtree(folder, ignore_errors=True)
        of_all = folder / "group_vars/all"
        of_all.mkdir(parents=True)
        (folder / ".vault-password").symlink_to(self.inventory / ".vault-password")
        for file in (self.inventory / "group_vars/all").iterdir():
            (of_all / file.name).symlink_to(file.resolve())
        everything = {"all": hosts or self.described()}
        (folder / "hosts.yml").write_text(yaml.safe_dump(everything, sort_keys=False), encoding="utf-8")
        if variables:
            (of_all / "other.yml").write_text(yaml.safe_dump(variables, sort_keys=False), encoding="utf-8")
        return folder

    def copied_release(self, name: str) -> Path:
        """Copy the release of this checkout: hosts know a release by the name of its folder."""
        source = self.run("scripts/release").splitlines()[-1]
        copy = ROOT / "build/releases" / name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        return copy

    def _say(self, line: str) -> None:
        """Begin something: say so on the terminal and in the log."""
        self.tell(f"  {datetime.now().astimezone():%H:%M:%S} {line}")
        self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        self._log.write(text)
        self._log.flush()

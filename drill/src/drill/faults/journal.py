"""What has to be undone, on the disk before it is done: so that a killed drill can still be healed."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from drill.faults import Undo, undo
from drill.targets import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drill.targets.stack import Stack


class Journal:
    """The undo steps that are open.

    Args:
        folder: where the journal and the lock file are.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "heal.json"
        self._lock = folder / "lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the drill's lock: two drills would take each other's faults for the stack's.

        Raises:
            TargetError: another drill runs.
        """
        with self._lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TargetError("Another drill is running on this machine; wait for its end.") from error
            yield

    def steps(self) -> list[Undo]:
        """Return the steps that are open."""
        try:
            return [tuple(step) for step in json.loads(self._path.read_text())]
        except FileNotFoundError:
            return []

    def open(self, steps: list[Undo]) -> None:
        """Write the steps to the disk before the fault is applied."""
        draft = self._path.with_suffix(".new")
        with draft.open("w") as file:
            json.dump(steps, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)

    def heal(self, stack: Stack) -> list[str]:
        """Do all open steps; return what failed, in words. The journal is empty when nothing did."""
        problems = []
        for step in self.steps():
            try:
                undo(stack, step)
            except TargetError as error:
                problems.append(f"{' '.join(step)[:80]}: {error}")
        if not problems:
            self._path.unlink(missing_ok=True)
        return problems


def heal_everything(stack: Stack, journal: Journal) -> list[str]:
    """Heal what the journal names, then whatever else a drill may have left; return what is still wrong."""
    problems = journal.heal(stack)
    for name, state in stack.target.states().items():
        try:
            if state == "paused":
                undo(stack, ("resume", name))
            if state in {"exited", "created"}:
                undo(stack, ("start", name))
            if stack.node(name).tier in {"rabbit", "redis"}:
                undo(stack, ("open", name))
        except TargetError as error:
            problems.append(f"{name}: {error}")
    return problems + stack.wait_healthy(120)

"""Where things are: the target, and the folders of this machine."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from drill.faults.journal import Journal
from drill.run.annotations import Annotations
from drill.targets.compose import Compose
from drill.targets.hosts import Hosts, describe
from drill.targets.stack import Stack
from webhooks.app import app

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from drill.targets import Target

FOREIGN = ("CELERY_", "DJANGO_", "HOLDFAST_", "PYTHONPATH")  # of an application that the shell has loaded, too
KEPT = (  # but these are of the drill itself, of compose.yaml and of the lab
    "HOLDFAST_DRILL_", "HOLDFAST_ADDRESS", "HOLDFAST_MTU", "HOLDFAST_NET", "HOLDFAST_RABBITMQ_IMAGE", "HOLDFAST_LAB_"
)  # fmt: skip


def ours(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what may lead elsewhere: Celery obeys ``CELERY_BROKER_URL`` before any setting."""
    return {name: value for name, value in variables.items() if name.startswith(KEPT) or not name.startswith(FOREIGN)}


class Places:
    """What the commands work on; connects to the target when it is first asked for.

    Args:
        build: folder for ledgers, reports and the heal journal.
        state: folder for what is to be healed.
        connect: returns the target, once it has shown that it may be broken.
        project: name of the compose project whose servers the drill's own test uses.
    """

    def __init__(self, build: Path, state: Path, connect: Callable[[], Target], project: str = "") -> None:
        self.build, self.project = build, project
        self.ledgers = build / "ledger"
        self._state, self._connect = state, connect

    @classmethod
    def of_project(cls, project: str, build: Path) -> Places:
        """Return those of a compose project."""
        state = build / "drill"
        return cls(build, state, lambda: Compose(project, state / "scrape"), project)

    @classmethod
    def of_inventory(cls, inventory: Path, build: Path) -> Places:
        """Return those of the hosts of an Ansible inventory."""
        folder = inventory.resolve()
        state = build.resolve() / "drill" / folder.name

        def connect() -> Hosts:
            describe(folder, state)
            return Hosts(folder, state)

        return cls(build, state, connect)

    @cached_property
    def journal(self) -> Journal:
        """The heal journal."""
        return Journal(self._state)

    @cached_property
    def target(self) -> Target:
        """The target.

        Raises:
            TargetError: it refuses, or is not there.
        """
        return self._connect()

    @cached_property
    def stack(self) -> Stack:
        """The stack on the target; the environment of its application replaces that of another in this process.

        Raises:
            TargetError: the target refuses, or is not there.
        """
        logins = self.target.logins()
        for name in os.environ.keys() - ours(os.environ).keys():
            del os.environ[name]
        os.environ.update(logins.environment)
        return Stack(self.target, logins.password, app)

    def annotations(self) -> Annotations | None:
        """Return what shows the faults in the target's dashboards, None where its Prometheus cannot look."""
        folder, found = self.target.scrape, self.stack.tier("prometheus")
        return Annotations(folder, found[0].address) if folder and found else None

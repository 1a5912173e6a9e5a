"""What the drill knows of a target's logins: passwords by name, and the environments of the application."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drill.target import TargetError
from holdfast.environment import read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Logins:
    """The logins of one target.

    Attributes:
        password: returns a password by its name.
        environment: of the application.
        redis_broker: what differs where Redis carries the tasks; empty if the target does not say.
        files: filled files of the roles, as ``role/name``; empty if the target does not say.
    """

    password: Callable[[str], str]
    environment: Mapping[str, str]
    redis_broker: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def of_stack(root: Path, project: str) -> Logins:
    """Ask the compose project.

    Args:
        root: the checkout.
        project: its name.

    Raises:
        TargetError: it was never started.
    """
    command = [str(root / "scripts/passwords"), "--json"]
    variables = os.environ | {"COMPOSE_PROJECT_NAME": project}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(f"The stack does not tell its passwords.\n{done.stderr.strip()[-1000:]}")
    made = json.loads(done.stdout)
    environments = made["environment"]
    return Logins(made["passwords"].__getitem__, environments["app"], environments["redis-broker"], made["files"])


def of_hosts(folder: Path) -> Logins:
    """Read what Ansible has written of an inventory; passwords each time anew, for they may be rotated.

    Args:
        folder: holds ``app.env`` and ``passwords/NAME``.
    """
    return Logins(lambda name: (folder / "passwords" / name).read_text().strip(), read_file(folder / "app.env"))

"""The group of all commands, and the options that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import click
from kombu.utils.imports import symbol_by_name

from drill import ROOT
from drill.cli.places import Places
from drill.faults import REGISTRY, pairs
from drill.judge import checker
from drill.targets import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable


class NotStartedError(click.ClickException):
    """What a target that refuses, or is not there, becomes for the user."""

    exit_code = checker.EXIT[checker.INCONCLUSIVE]


class Commands(click.Group):
    """The commands of the drill, which all end in words when the target refuses."""

    @override
    def invoke(self, context: click.Context) -> Any:
        """Run a command.

        Raises:
            NotStartedError: the target refused, with its reason.
        """
        try:
            return super().invoke(context)
        except TargetError as error:
            raise NotStartedError(str(error)) from error


@click.group(cls=Commands)
@click.option(
    "--project",
    default="holdfast",
    envvar="COMPOSE_PROJECT_NAME",
    show_default=True,
    help="Name of the compose project.",
)
@click.option(
    "--build",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / "build",
    help="Folder for ledgers, reports and the heal journal.",
)
@click.pass_context
def main(context: click.Context, project: str, build: Path) -> None:
    """Break the running stack on purpose and count what was lost.

    Exit code: 0 pass, 1 fail, 2 inconclusive or not started.
    """
    context.obj = Places.of_project(project, build)


def _take_inventory(context: click.Context, _: click.Parameter, folder: Path | None) -> None:
    if folder:
        context.obj = Places.of_inventory(folder, context.obj.build)


def _take_target(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is None:
        return
    try:
        connect = symbol_by_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise click.BadParameter(
            f"{name} cannot be imported: {error}. Allowed is package.module:name, of what returns a "
            "drill.targets.Target when it is called."
        ) from error
    build: Path = context.obj.build
    context.obj = Places(build, build / "drill" / name.replace(":", "."), connect)


def on_target[F: Callable[..., Any]](command: F) -> F:
    """Let a command work on another target than the compose project."""
    inventory = click.option(
        "--inventory",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        callback=_take_inventory,
        expose_value=False,
        help="Folder of an Ansible inventory: use its hosts instead of the compose project.",
    )
    target = click.option(
        "--target",
        metavar="MODULE:NAME",
        callback=_take_target,
        expose_value=False,
        help="Class or function that returns a target of your own, instead of the compose project.",
    )
    return inventory(target(command))


def known(_context: click.Context, _parameter: click.Parameter, faults: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse names that are no faults.

    Raises:
        UsageError: there are some.
    """
    unknown = [fault for fault in faults if fault not in REGISTRY]
    if unknown:
        raise click.UsageError(f"There is no fault {', '.join(unknown)}. drill list shows them all.")
    return faults


def known_or_pair(_context: click.Context, _parameter: click.Parameter, faults: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse names that are neither faults nor pairs of them.

    Raises:
        UsageError: there are some.
    """
    for fault in faults:
        if problem := pairs.problem(fault):
            raise click.UsageError(f"{problem} drill list shows them all.")
    return faults

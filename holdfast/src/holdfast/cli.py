"""The ``holdfast`` command: a subcommand is imported when it is called, so that a broken part never hides another."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import click

from holdfast import extras

COMMANDS = {
    "dead": "holdfast.dead:command",
    "doctor": "holdfast.doctor:command",
    "migrate-broker": "holdfast.migrate.command:command",
    "migrate-queues": "holdfast.migrate.queues:command",
    "outbox": "holdfast.outbox.cli:command",
    "probe": "holdfast.probe:command",
    "relay": "holdfast.outbox.cli:relay",
    "where": "holdfast.where:command",
}


class LazyGroup(click.Group):
    """A click group whose subcommands are named in a table and imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        try:
            return cast("click.Command", getattr(import_module(module), attribute))
        except extras.MissingExtraError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=LazyGroup)
def main() -> None:
    """Operate the durability layer of a Celery application."""

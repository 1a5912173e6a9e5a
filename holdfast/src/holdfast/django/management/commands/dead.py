"""``manage.py dead``: the messages of the dead-letter queue."""

from __future__ import annotations

from argparse import REMAINDER
from typing import TYPE_CHECKING, Any

import click
from django.core.management.base import BaseCommand, CommandError

from holdfast import dead
from holdfast.django.application import application

if TYPE_CHECKING:
    from argparse import ArgumentParser

GROUP = click.Group("dead", commands=dead.command.commands)


class Command(BaseCommand):
    """The commands of ``holdfast dead`` for the application of the project."""

    help = "Show the messages of the dead-letter queue; replay or discard them: list, show, replay, discard."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--app", help="The Celery application; by default the current one.")
        parser.add_argument("--queue", default="dead", help="The queue to work on, dead or unrouted (%(default)s).")
        parser.add_argument("arguments", nargs=REMAINDER, help="list | show | replay | discard, with their options")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the subcommand."""
        try:
            GROUP.main(
                options["arguments"],
                "manage.py dead",
                standalone_mode=False,
                obj=lambda: dead.open_office(application(options["app"]), options["queue"]),
            )
        except click.ClickException as error:
            raise CommandError(error.format_message()) from error

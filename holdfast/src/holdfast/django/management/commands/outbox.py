"""``manage.py outbox``: what waits in the outbox."""

from __future__ import annotations

from argparse import REMAINDER
from typing import TYPE_CHECKING, Any

import click
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from holdfast.django.rows import DjangoRows
from holdfast.outbox import commands

if TYPE_CHECKING:
    from argparse import ArgumentParser

GROUP = click.Group("outbox", commands=commands.ALL)


class Command(BaseCommand):
    """The commands of ``holdfast outbox`` on a database of Django's."""

    help = "Show the state of the outbox; release or discard parked rows: status, list, release ID, discard ID."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="One of DATABASES (%(default)s).")
        parser.add_argument("arguments", nargs=REMAINDER, help="status | list [--json] | release ID... | discard ID...")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the subcommand."""
        try:
            GROUP.main(
                options["arguments"], "manage.py outbox", standalone_mode=False, obj=DjangoRows(options["database"])
            )
        except click.ClickException as error:
            raise CommandError(error.format_message()) from error

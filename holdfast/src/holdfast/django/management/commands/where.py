"""``manage.py where``: what each place that may know a task says of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from holdfast import where
from holdfast.django.application import application
from holdfast.django.rows import DjangoRows

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """``holdfast where`` for the application and the outbox of the project."""

    help = "Show what the outbox, the workers, the result store and the dead letters know of a task."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("task_id", help="Id of the task.")
        parser.add_argument("--app", help="The Celery application; by default the current one.")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="One of DATABASES (%(default)s).")
        parser.add_argument("--json", action="store_true", help="One JSON object.")

    def handle(self, *_: Any, **options: Any) -> None:
        """Print the story, and exit as ``holdfast where`` does."""
        rows = DjangoRows(options["database"])
        try:
            code = where.report(application(options["app"]), options["task_id"], rows, as_json=options["json"])
        except click.ClickException as error:
            raise CommandError(error.format_message()) from error
        if code:
            sys.exit(code)

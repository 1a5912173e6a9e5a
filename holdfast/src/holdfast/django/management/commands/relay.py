"""``manage.py relay``: publishes what is in the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from holdfast.django.application import application
from holdfast.django.rows import DjangoRows
from holdfast.outbox.relay import BATCH, LEASE, METRICS, POLL, serve

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """The relay of one database; a project with outboxes in several databases runs one for each."""

    help = "Publish the tasks that are in the outbox; SIGTERM ends it after the pass that has begun."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="One of DATABASES (%(default)s).")
        parser.add_argument("--app", help="The Celery application; by default the current one.")
        parser.add_argument("--metrics", default=METRICS, help="Address of /metrics and /healthz (%(default)s).")
        parser.add_argument("--batch", type=int, default=BATCH, help="Rows per pass (%(default)s).")
        parser.add_argument(
            "--lease", type=float, default=LEASE, help="Seconds until the rows of a killed relay are due (%(default)s)."
        )
        parser.add_argument(
            "--poll", type=float, default=POLL, help="Seconds between two checks of an empty outbox (%(default)s)."
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Work until a signal."""
        wanted = {name: options[name] for name in ("batch", "lease", "poll")}
        try:
            serve(application(options["app"]), DjangoRows(options["database"]), options["metrics"], **wanted)
        except click.ClickException as error:
            raise CommandError(error.format_message()) from error

"""``holdfast doctor``: the command of celery-doctor with the environment variables of the layer."""

from __future__ import annotations

import click

from celery_doctor.cli import main


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False, options_metavar="")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS]")
def command(words: tuple[str, ...]) -> None:
    """Report what a Celery application can lose.

    The options are those of celery-doctor; HOLDFAST_APP, HOLDFAST_MANAGEMENT_URL and HOLDFAST_REDIS_URL stand for -A,
    --management and --redis.
    """
    main(words, name="holdfast doctor", prefix="HOLDFAST")

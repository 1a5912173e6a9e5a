"""The tables, as :mod:`holdfast.outbox.table` and :mod:`holdfast.inbox` lay them out, so that either relay works."""

from __future__ import annotations

from django.db import models

from holdfast.django.fields import Instant, Key
from holdfast.outbox.rows import now


class Outbox(models.Model):
    """A task or a whole canvas that waits to be published."""

    id = models.BigAutoField(primary_key=True, help_text="Order of enqueueing.")
    task_id = models.CharField(max_length=255, help_text="What enqueue() returned.")
    task = models.CharField(max_length=255, help_text="Name of the first task.")
    workflow = models.TextField(help_text="JSON: the finished messages, and what a chord needs before them.")
    created_at = Instant(default=now)
    not_before = Instant(null=True, help_text="Claimed by a relay, or waiting after a failure, until then.")
    attempts = models.IntegerField(default=0, help_text="Failed attempts.")
    refusals = models.IntegerField(default=0, help_text="Those that a healthy broker would repeat.")
    error = models.TextField(null=True, help_text="Of the last failed attempt.")
    parked_at = Instant(null=True, help_text="Given up until an operator releases it.")

    class Meta:
        db_table = "holdfast_outbox"
        verbose_name = "outbox row"

    def __str__(self) -> str:
        return f"{self.task} {self.task_id}"


class DeadLetter(Outbox):
    """No rows: the name and the permissions of the page that shows the dead-letter queue."""

    class Meta:
        proxy = True
        verbose_name = "dead letter"


class Inbox(models.Model):
    """An effect that has happened."""

    key = Key(max_length=255, primary_key=True)
    result = models.TextField(null=True, help_text="JSON.")
    done_at = Instant(default=now, db_index=True, help_text="For prune().")

    class Meta:
        db_table = "holdfast_inbox"
        verbose_name = "inbox key"

    def __str__(self) -> str:
        return str(self.key)

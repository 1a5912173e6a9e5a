"""The tables of outbox and inbox."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

import holdfast.django.fields
import holdfast.outbox.rows


class Migration(migrations.Migration):
    """Makes both tables."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[migrations.operations.base.Operation]] = [
        migrations.CreateModel(
            name="Inbox",
            fields=[
                ("key", holdfast.django.fields.Key(max_length=255, primary_key=True, serialize=False)),
                ("result", models.TextField(help_text="JSON.", null=True)),
                (
                    "done_at",
                    holdfast.django.fields.Instant(
                        db_index=True, default=holdfast.outbox.rows.now, help_text="For prune()."
                    ),
                ),
            ],
            options={"verbose_name": "inbox key", "db_table": "holdfast_inbox"},
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.BigAutoField(help_text="Order of enqueueing.", primary_key=True, serialize=False)),
                ("task_id", models.CharField(help_text="What enqueue() returned.", max_length=255)),
                ("task", models.CharField(help_text="Name of the first task.", max_length=255)),
                (
                    "workflow",
                    models.TextField(help_text="JSON: the finished messages, and what a chord needs before them."),
                ),
                ("created_at", holdfast.django.fields.Instant(default=holdfast.outbox.rows.now)),
                (
                    "not_before",
                    holdfast.django.fields.Instant(
                        help_text="Claimed by a relay, or waiting after a failure, until then.", null=True
                    ),
                ),
                ("attempts", models.IntegerField(default=0, help_text="Failed attempts.")),
                (
                    "refusals",
                    models.IntegerField(default=0, help_text="Those that a healthy broker would repeat."),
                ),
                ("error", models.TextField(help_text="Of the last failed attempt.", null=True)),
                (
                    "parked_at",
                    holdfast.django.fields.Instant(help_text="Given up until an operator releases it.", null=True),
                ),
            ],
            options={"verbose_name": "outbox row", "db_table": "holdfast_outbox"},
        ),
        migrations.CreateModel(
            name="DeadLetter",
            fields=[],
            options={"verbose_name": "dead letter", "proxy": True, "indexes": [], "constraints": []},
            bases=("holdfast.outbox",),
        ),
    ]

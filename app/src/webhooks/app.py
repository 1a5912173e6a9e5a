"""The Celery application: ``celery -A webhooks.app``."""

from __future__ import annotations

from celery import Celery

from holdfast.app import install

app = Celery("webhooks", include=["webhooks.tasks"])
app.config_from_object("holdfast.settings")
app.conf.beat_schedule = {
    # No expiry: an expired tick would be one more thing to record; a late one finds nothing left to do.
    "sweep": {"task": "webhooks.tasks.sweep", "schedule": 15.0},
}
install(app)

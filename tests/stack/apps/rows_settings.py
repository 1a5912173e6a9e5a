"""Settings of a Django project with django-celery-beat, for ``DJANGO_SETTINGS_MODULE`` beside ``celery -A scratch``."""

from __future__ import annotations

import json
import os

SECRET_KEY = "for tests"  # noqa: S105 - nothing is signed for anybody
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
INSTALLED_APPS = ["django_celery_beat"]
DATABASES = {"default": json.loads(os.environ["ROWS_DATABASE"])}

"""A Django project for tests: settings, a URL of the admin site, and a Celery application whose broker is memory.

Importing it configures Django in this process, once. ``HOLDFAST_TEST_DATABASE`` chooses the database, as JSON of
``DATABASES["default"]``; without it SQLite files in a temporary folder are used.
"""

from __future__ import annotations

import json
import os
from tempfile import mkdtemp
from typing import Any

import django
from celery import Celery
from celery.contrib.django.task import DjangoTask
from django.conf import settings
from django.contrib import admin
from django.urls import path

FOLDER = mkdtemp(prefix="holdfast-django-")
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"timeout": 30}}


def databases() -> dict[str, Any]:
    """The database to test, and a second one."""
    chosen = os.environ.get("HOLDFAST_TEST_DATABASE")
    first = json.loads(chosen) if chosen else SQLITE | {"NAME": f"{FOLDER}/first.sqlite3"}
    return {"default": first, "second": SQLITE | {"NAME": f"{FOLDER}/second.sqlite3"}}


if not settings.configured:
    kind = json.loads(os.environ.get("HOLDFAST_TEST_DATABASE") or "{}").get("ENGINE", "")
    if kind.endswith("mysql"):  # Django knows mysqlclient alone; this one needs no compiler
        import pymysql

        pymysql.version_info = (2, 2, 8, "final", 0)
        pymysql.install_as_MySQLdb()
    settings.configure(
        SECRET_KEY="for tests",  # noqa: S106 - nothing is signed for anybody
        ROOT_URLCONF="django_project",
        USE_TZ=os.environ.get("HOLDFAST_TEST_USE_TZ", "1") == "1",
        TIME_ZONE="Europe/Berlin",
        ALLOWED_HOSTS=["*"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        HOLDFAST_DURABLE_ON_COMMIT=True,
        TASKS={"default": {"BACKEND": "holdfast.django.backend.CeleryBackend", "QUEUES": ["default", "mail"]}},
        INSTALLED_APPS=[
            *(f"django.contrib.{name}" for name in ("contenttypes", "auth", "messages", "sessions", "admin")),
            "django_celery_beat",
            "holdfast.django",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        f"django.{name}"
                        for name in (
                            "template.context_processors.request",
                            "contrib.auth.context_processors.auth",
                            "contrib.messages.context_processors.messages",
                        )
                    ]
                },
            }
        ],
        DATABASES=databases(),
    )
    django.setup()

app = Celery("shop", broker="memory://", backend="cache+memory://", task_cls=DjangoTask, set_as_current=False)
app.conf.broker_transport_options = {"polling_interval": 0.01}


@app.task(name="add", shared=False)
def add(x: int, y: int) -> int:
    """Add."""
    return x + y


@app.task(name="total", shared=False)
def total(values: list[int]) -> int:
    """Sum up."""
    return sum(values)


urlpatterns = [path("admin/", admin.site.urls)]

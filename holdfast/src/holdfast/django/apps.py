"""What Django loads of the layer."""

from __future__ import annotations

from holdfast import extras

with extras.needed():
    from django import VERSION
    from django.apps import AppConfig
    from django.conf import settings
    from django.core.checks import register


class HoldfastConfig(AppConfig):
    """The installed app."""

    name = "holdfast.django"
    label = "holdfast"
    verbose_name = "Holdfast"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the check; make ``delay_on_commit`` durable where ``HOLDFAST_DURABLE_ON_COMMIT`` is set."""
        from holdfast.django import checks, on_commit  # noqa: PLC0415 - models may be imported from here on

        register(checks.doctor, deploy=True)
        if VERSION >= (6, 0):  # older ones have no tasks
            from holdfast.django import backend  # noqa: F401, PLC0415 - registers the Celery task that runs them
        if getattr(settings, "HOLDFAST_DURABLE_ON_COMMIT", False):
            on_commit.install()

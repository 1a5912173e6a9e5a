"""``python -m celery_doctor``."""

from __future__ import annotations

from celery_doctor.cli import main

main(name="python -m celery_doctor")

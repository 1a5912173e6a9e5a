"""Rules on the installed packages."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from holdfast.doctor.rules import Severity, rule
from holdfast.startup import MINIMUM

if TYPE_CHECKING:
    from holdfast.doctor.subject import Subject


@rule(
    "HF701-versions",
    Severity.FATAL,
    loss="workers stop consuming after a reconnect, or are refused their queues by RabbitMQ 4.3",
    fix='pip install "celery[redis]>=5.7" "kombu>=5.7" "amqp>=5.4.2"',
    see="celery#10290",
)
def versions(subject: Subject) -> str | None:  # noqa: ARG001 - every rule is asked with the application
    old = [
        f"{package} {metadata.version(package)}"
        for package, minimum in MINIMUM.items()
        if tuple(int(part) for part in metadata.version(package).split(".")[:3] if part.isdecimal()) < minimum
    ]
    return ", ".join(old) or None

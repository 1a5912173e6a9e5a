"""Rules on the installed packages, and on settings whose type does not fit."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING

from celery_doctor.rules import Severity
from celery_doctor.rules import settings_rules as rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_doctor.subject import Subject

MINIMUM = {
    "celery": (5, 7),  # reconnects, and the queues that RabbitMQ 4.3 still allows (celery#10290)
    "kombu": (5, 7),  # per-consumer prefetch on RabbitMQ 4.3, delay prefix that does not grow (kombu#2237)
    "amqp": (5, 4, 2),  # confirm_timeout
}


def number(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version for comparison; what follows them (``rc1``) does not count."""
    release = re.match(r"\D*((?:\d+\.)*\d+)", version)
    return tuple(int(part) for part in release.group(1).split(".")[:3]) if release else ()


def outdated(packages: Iterable[str] = tuple(MINIMUM)) -> list[str]:
    """Return each package that is older than :data:`MINIMUM` allows, with both versions.

    Args:
        packages: of those named there.
    """
    found = []
    for package in packages:
        minimum = MINIMUM[package]
        installed = metadata.version(package)
        if number(installed) < minimum:
            found.append(f"{package} {installed} is installed, {'.'.join(map(str, minimum))} or newer is needed")
    return found


@rule(
    "HF701-versions",
    Severity.WARNING,
    loss="workers stop consuming after a reconnect, or RabbitMQ 4.3 refuses their queues",
    fix='pip install "celery[redis]>=5.7" "kombu>=5.7" "amqp>=5.4.2"',
    see="celery#10290",
)
def versions(subject: Subject) -> list[str]:
    return outdated(MINIMUM if subject.amqp else ("celery",))  # the others were needed for RabbitMQ


@rule(
    "HF703-name-without-effect",
    Severity.WARNING,
    loss="Celery does not read this name: its own default applies, such as the queue celery, which no worker may read",
    fix="write it under the name that Celery reads, which the finding gives",
)
def name_without_effect(subject: Subject) -> Iterable[str]:
    return [f"{name} has no effect, the name is {read}" for name, read in subject.dialect.without_effect()]


@rule(
    "HF702-text-for-a-value",
    Severity.WARNING,
    loss='Celery takes the text "false" for true, and fails when it computes with the text "10"',
    fix='read the environment with a type: int(os.environ["..."]), os.environ["..."] == "true"',
)
def text_for_a_value(subject: Subject) -> Iterable[str]:
    return subject.texts()

"""What the ``WEBHOOKS_*`` variables change; everything has a value that works for trying the application alone."""

from __future__ import annotations

import ipaddress
import os
from base64 import b64decode
from dataclasses import dataclass

from celery.exceptions import ImproperlyConfigured

PREFIX = "whsec_"  # of a signing key, as Standard Webhooks writes it
MIN_KEY = 24  # bytes; Standard Webhooks asks for 24 to 64


@dataclass(frozen=True)
class Config:
    """Settings of the application.

    Attributes:
        database_url: SQLAlchemy URL; an SQLite file in the working directory unless ``WEBHOOKS_DATABASE_URL`` is set.
        max_attempts: HTTP requests per delivery before it is dead.
        retry_base: seconds; upper bound of the first wait, doubled with each attempt.
        retry_cap: seconds; no wait is longer.
        timeout: seconds; limit of one HTTP request.
        overdue_after: seconds past its due time after which the sweep publishes a delivery again.
        allowed_networks: may be delivered to although they are not public, and without TLS.
        signing_keys: sign each delivery; the receiver accepts any of them.
    """

    database_url: str
    max_attempts: int
    retry_base: int
    retry_cap: int
    timeout: int
    overdue_after: int
    allowed_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    signing_keys: tuple[str, ...]


def load() -> Config:
    """Read the environment.

    Raises:
        ImproperlyConfigured: a number is not a whole number above zero, a network or a key is none.
    """
    return Config(
        database_url=os.environ.get("WEBHOOKS_DATABASE_URL") or "sqlite:///webhooks.sqlite3",
        max_attempts=_number("WEBHOOKS_MAX_ATTEMPTS", 6),
        retry_base=_number("WEBHOOKS_RETRY_BASE", 2),
        retry_cap=_number("WEBHOOKS_RETRY_CAP", 300),
        timeout=_number("WEBHOOKS_TIMEOUT", 10),
        overdue_after=_number("WEBHOOKS_OVERDUE_AFTER", 60),
        allowed_networks=tuple(map(_network, _words("WEBHOOKS_ALLOWED_NETWORKS"))),
        signing_keys=tuple(map(_key, _words("WEBHOOKS_SIGNING_KEYS"))),
    )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed is a whole number above zero.")
    return int(text)


def _words(name: str) -> list[str]:
    return [word.strip() for word in os.environ.get(name, "").split(",") if word.strip()]


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"WEBHOOKS_ALLOWED_NETWORKS names {text!r} ({error}); allowed are networks such as 10.20.0.0/16, "
            "joined by ','."
        ) from error


def _key(text: str) -> str:
    try:
        long_enough = len(b64decode(text.removeprefix(PREFIX) + "==")) >= MIN_KEY
    except ValueError:
        long_enough = False
    if not text.startswith(PREFIX) or not long_enough:  # the message does not repeat the key
        raise ImproperlyConfigured(
            f"WEBHOOKS_SIGNING_KEYS holds something else than a key; allowed are {PREFIX!r} and the base64 of at least "
            f"{MIN_KEY} random bytes, two such keys joined by ',' while one is rotated."
        )
    return text

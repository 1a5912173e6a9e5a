"""Reads the ``HOLDFAST_*`` variables; a missing or wrong one is an error that names what is allowed."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from celery.exceptions import ImproperlyConfigured


def required(name: str) -> str:
    """Return the variable ``name``.

    Raises:
        ImproperlyConfigured: it is missing or empty.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise ImproperlyConfigured(
            f"{name} is not set. Load the application's environment first: compose/secrets/app.env in the local stack, "
            "/etc/holdfast/app.env on a host."
        )
    return value


def seconds(name: str, default: int) -> int:
    """Return the variable ``name`` as a whole number of seconds above zero, ``default`` when it is not set.

    Raises:
        ImproperlyConfigured: it is not such a number.
    """
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed is a whole number of seconds above zero.")
    return int(text)


def names(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the comma-separated variable ``name``, ``default`` when it is not set.

    Raises:
        ImproperlyConfigured: a part is empty or appears twice.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    parts = tuple(part.strip() for part in text.split(","))
    if "" in parts or len(set(parts)) < len(parts):
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed are different names separated by commas.")
    return parts


def urls(name: str, schemes: tuple[str, ...]) -> str:
    """Return the variable ``name``: one or more URLs joined by ``;``, all of one of the ``schemes``, each with a host.

    Raises:
        ImproperlyConfigured: it is missing, a URL has another scheme or no host, or schemes are mixed.
    """
    value = required(name)
    found = set()
    for number, url in enumerate(value.split(";"), start=1):
        try:
            parts = urlsplit(url)
            complete = bool(parts.hostname) and parts.port != 0
        except ValueError:
            complete = False
        if not complete or parts.scheme not in schemes:
            # The URL itself is not shown: it holds a password.
            raise ImproperlyConfigured(
                f"{name}: URL {number} of {value.count(';') + 1} is not of the form "
                f"{' or '.join(f'{scheme}://user:password@host:port/name' for scheme in schemes)}. "
                "Several URLs are joined by ';'; special characters in a password are percent-encoded."
            )
        found.add(parts.scheme)
    if len(found) > 1:
        raise ImproperlyConfigured(f"{name} mixes {' and '.join(sorted(found))}; all URLs must have the same scheme.")
    return value


def port(name: str) -> int | None:
    """Return the variable ``name`` as a TCP port, None when it is not set.

    Raises:
        ImproperlyConfigured: it is no number from 1 to 65535.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed is a TCP port from 1 to 65535.")
    return int(text)


def choice(name: str, allowed: tuple[str, ...]) -> str:
    """Return the variable ``name``, the first of the ``allowed`` values when it is not set.

    Raises:
        ImproperlyConfigured: it is none of them.
    """
    value = os.environ.get(name, "").strip() or allowed[0]
    if value not in allowed:
        raise ImproperlyConfigured(f"{name} is {value!r}; allowed is {' or '.join(allowed)}.")
    return value

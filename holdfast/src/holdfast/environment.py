"""Reads the ``HOLDFAST_*`` variables; a missing or wrong one is an error that names what is allowed.

The file that holds them (``app.env``) means the same to a shell, systemd, Docker and Compose because its values need no
quotes: lists are joined by commas, and what a URL or a password has of other characters is percent-encoded.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from celery.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from pathlib import Path

_FRACTION = re.compile(r"0(\.\d+)?|1(\.0+)?")
_BETWEEN_URLS = re.compile("[,;]")  # a semicolon is how Celery writes it; a shell would end the command there


def read_file(path: Path) -> dict[str, str]:
    """Return the variables of an environment file such as ``app.env``: lines ``NAME=value``, and comments."""
    lines = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {name: value for name, sign, value in lines if sign}


def split_urls(value: str) -> list[str]:
    """Return the URLs of ``value``, which are joined by commas, or by semicolons as Celery writes them."""
    return _BETWEEN_URLS.split(value)


def decoded(name: str) -> str | None:
    """Return the percent-encoded variable ``name`` as it was before, None when it is missing or empty."""
    return unquote(os.environ.get(name, "")) or None


def first_set(name: str, otherwise: str) -> str:
    """Return ``name`` if the environment has such a variable, and it is not empty; ``otherwise`` if not."""
    return name if os.environ.get(name, "").strip() else otherwise


def required(name: str) -> str:
    """Return the variable ``name``.

    Raises:
        ImproperlyConfigured: it is missing or empty.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise ImproperlyConfigured(
            f"{name} is not set. Load the application's environment first: app.env, on a host of the "
            "inventory /etc/holdfast/app.env."
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


def fraction(name: str, default: float) -> float:
    """Return the variable ``name`` as a number from 0 to 1, ``default`` when it is not set.

    Raises:
        ImproperlyConfigured: it is not such a number.
    """
    text = os.environ.get(name, "").strip() or str(default)
    if not _FRACTION.fullmatch(text):
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed is a number from 0 to 1, for instance 0.1.")
    return float(text)


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
    """Return the variable ``name``: one or more URLs, joined by ``;`` as Celery wants them.

    All are of one of the ``schemes``, and each names a host. Of Redis and ``sentinel``, what follows the host is the
    number of a database, 0 when nothing does. Nothing follows a question mark: ``?ssl_cert_reqs=none`` would turn off
    what :mod:`holdfast.tls` promises.

    Raises:
        ImproperlyConfigured: it is missing, a URL has another scheme, no host, an odd database or options, or schemes
            are mixed.
    """
    listed = split_urls(required(name))
    found = set()
    for number, url in enumerate(listed, start=1):
        try:
            parts = urlsplit(url)
            complete = bool(parts.hostname) and parts.port != 0
        except ValueError:
            complete = False
        if not complete or parts.scheme not in schemes:
            # The URL itself is not shown: it holds a password.
            raise ImproperlyConfigured(
                f"{name}: URL {number} of {len(listed)} is not of the form "
                f"{' or '.join(f'{scheme}://user:password@host:port/name' for scheme in schemes)}. "
                "Several URLs are joined by commas; special characters in a password are percent-encoded."
            )
        if parts.query or parts.fragment:
            raise ImproperlyConfigured(
                f"{name}: URL {number} of {len(listed)} has options after ? or #, which would replace settings of this "
                "application, checks of certificates among them. Leave them out; a ? or # in a password is written "
                "%3F or %23."
            )
        if parts.scheme in ("sentinel", "redis", "rediss") and not (parts.path.strip("/") or "0").isdecimal():
            raise ImproperlyConfigured(
                f"{name}: the database of URL {number} of {len(listed)} is no number; allowed are numbers from 0. "
                f"Write {parts.scheme}://user:password@host:port/0, or leave the last part out, which means 0."
            )
        found.add(parts.scheme)
    if len(listed) > 1 and found & {"redis", "rediss"}:
        raise ImproperlyConfigured(
            f"{name} has {len(listed)} URLs; a Redis without Sentinel is one address. Write the one that the service "
            "gives for reading and writing, or sentinel:// and the addresses of the Sentinels."
        )
    if len(found) > 1:
        raise ImproperlyConfigured(f"{name} mixes {' and '.join(sorted(found))}; all URLs must have the same scheme.")
    return ";".join(listed)


def flag(name: str) -> bool:
    """Return whether the variable ``name`` says yes; not set, it says no.

    Raises:
        ImproperlyConfigured: it is neither ``yes`` nor ``no``.
    """
    text = os.environ.get(name, "").strip() or "no"
    if text not in ("yes", "no"):
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed are yes and no.")
    return text == "yes"


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

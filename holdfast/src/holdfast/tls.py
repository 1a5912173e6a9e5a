"""TLS of every connection: ``HOLDFAST_TLS_CA`` turns it on for the brokers, Redis and Sentinel.

``HOLDFAST_TLS_CA`` is the file with the authority that signed the servers' certificates; ``HOLDFAST_TLS_CERT`` and
``HOLDFAST_TLS_KEY`` are the client's own certificate, for servers that ask for one. Chain and address are always
checked: there is no setting that accepts any server.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery.exceptions import ImproperlyConfigured

_SECRET = {"amqp": "amqps:// (port 5671)", "redis": "rediss://"}  # what to write in place of a plain scheme


@dataclass(frozen=True)
class TLSFiles:
    """The files of ``HOLDFAST_TLS_CA``, ``HOLDFAST_TLS_CERT`` and ``HOLDFAST_TLS_KEY``.

    Attributes:
        authority: who signed the servers' certificates.
        certificate: the client's own, or None.
        key: of that certificate, or None.
    """

    authority: str
    certificate: str | None
    key: str | None

    def amqp(self) -> dict[str, Any]:
        """Return ``broker_use_ssl`` for RabbitMQ."""
        return {
            "ca_certs": self.authority,
            "cert_reqs": ssl.CERT_REQUIRED,
            "certfile": self.certificate,
            "keyfile": self.key,
            "server_hostname": None,  # the address of the URL in use; without this key none is compared
        }

    def redis(self) -> dict[str, Any]:
        """Return ``redis_backend_use_ssl``, also for Redis as the broker and for beat's schedule."""
        return {
            "ssl_ca_certs": self.authority,
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_check_hostname": True,
            "ssl_certfile": self.certificate,
            "ssl_keyfile": self.key,
        }

    def sentinel(self) -> dict[str, Any]:
        """Return what ``sentinel_kwargs`` needs: the Sentinels' connections inherit nothing from those to Redis."""
        return {"ssl": True, **self.redis()}


def read(**urls: str) -> TLSFiles | None:
    """Read the environment; None when ``HOLDFAST_TLS_CA`` is not set, and everything is plain.

    Args:
        urls: by the variables that they are of: the broker's, and those of results or schedule. All must say the same;
            ``sentinel://`` says nothing.

    Raises:
        ImproperlyConfigured: a file cannot be read, one of certificate and key is missing, or part of the traffic would
            be plain.
    """
    authority, certificate, key = (_file(f"HOLDFAST_TLS_{name}") for name in ("CA", "CERT", "KEY"))
    for name, url in urls.items():
        scheme = url.split(":", 1)[0]
        if authority is None and scheme in {"amqps", "rediss"}:
            raise _no_authority(f"{name} begins with {scheme}://")
        if authority is not None and scheme in _SECRET:
            raise ImproperlyConfigured(
                f"HOLDFAST_TLS_CA is set and {name} begins with {scheme}://, so a part of the traffic would be plain. "
                f"Write {_SECRET[scheme]} in every URL, or unset HOLDFAST_TLS_CA."
            )
    if authority is None:
        if certificate or key:
            raise _no_authority("A client certificate is set")
        return None
    if (certificate is None) != (key is None):
        raise ImproperlyConfigured("Only one of HOLDFAST_TLS_CERT and HOLDFAST_TLS_KEY is set; set both, or none.")
    return TLSFiles(authority, certificate, key)


def _no_authority(found: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"{found} and HOLDFAST_TLS_CA is not set; name the file with the authority of the servers' certificates (the "
        "system's own: /etc/ssl/certs/ca-certificates.crt)."
    )


def _file(name: str) -> str | None:
    path = os.environ.get(name, "").strip()
    if not path:
        return None
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise ImproperlyConfigured(
            f"{name} is {path!r}, which cannot be read ({error.strerror}); allowed is a PEM file that "
            "this user may read."
        ) from error
    return path

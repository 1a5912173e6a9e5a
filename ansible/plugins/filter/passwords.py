"""Passwords as servers store them and as URLs hold them, so that an inventory holds each password once.

A placeholder ``${NAME}`` stays one: ``scripts/secrets`` fills in the other form instead, by the ending of its name.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from ansible.errors import AnsibleFilterError
from ansible.utils.encrypt import do_encrypt

if TYPE_CHECKING:
    from collections.abc import Callable

PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
# What a shell, systemd, Docker, Compose and supervisor read alike without quotes
PORTABLE = re.compile(r"[A-Za-z0-9_.,:/@%+=?^\[\]-]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def redis_hash(password: str) -> str:
    """Return sha256 of ``password``, as an ACL file wants it after ``#``."""
    if match := PLACEHOLDER.fullmatch(password):
        return f"${{{match[1]}_SHA256}}"
    return hashlib.sha256(password.encode()).hexdigest()


def rabbitmq_hash(password: str) -> str:
    """Return base64 of a salt and of sha256 of salt and ``password``, as RabbitMQ's definitions want it.

    The salt comes from the password, which is random itself: the same password gives the same file.
    """
    if match := PLACEHOLDER.fullmatch(password):
        return f"${{{match[1]}_RABBITMQ_HASH}}"
    salt = hashlib.sha256(b"salt:" + password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def bcrypt_hash(password: str, place: str) -> str:
    """Return the bcrypt hash of ``password`` for the page of a server, as exporter-toolkit wants it.

    Args:
        password: the password, or a placeholder.
        place: where the page is; the salt comes from it, so that the same password gives the same file.

    Raises:
        AnsibleFilterError: the password is empty: a page without a login is none that this stack has.
    """
    if not password:
        raise AnsibleFilterError(
            f"found: no password for the page {place}. allowed: a password; no page is without a login. "
            "next: the playbook holdfast.stack.secrets makes those that are missing in the vault"
        )
    if match := PLACEHOLDER.fullmatch(password):
        return f"${{{match[1]}_BCRYPT}}"
    # bcrypt wants 22 characters, the last of them one of four
    salt = hashlib.sha256(place.encode()).hexdigest()[:21] + "u"
    return str(do_encrypt(password, "bcrypt", salt=salt, rounds=10))


def url_encoded(password: str) -> str:
    """Return ``password`` percent-encoded, for a URL or an environment file; also ``~``, which a shell may expand."""
    if match := PLACEHOLDER.fullmatch(password):
        return f"${{{match[1]}_URLENCODED}}"
    return quote(password, safe="").replace("~", "%7E")


def environment_file(text: str) -> str:
    """Return ``text``, the lines of an environment file, when every reader of such a file takes them alike.

    Raises:
        AnsibleFilterError: a line is none, or a value needs quotes, which Docker would take for a part of it.
    """
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if not line or line.startswith("#"):
            continue
        if not sign or not VARIABLE.fullmatch(name) or not PORTABLE.fullmatch(PLACEHOLDER.sub("", value)):
            raise AnsibleFilterError(
                f"found: {f'the value of {name}' if sign else 'a line without ='} in an environment file, which a "
                "shell, systemd, Docker and Compose do not read alike. "
                "allowed: A-Z a-z 0-9 and _ . , : / @ % + = ? ^ [ ] - without quotes. "
                "next: percent-encode a password in a URL: {{ password | holdfast.stack.url_encoded }}"
            )
    return text


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filters by name."""
        return {
            "bcrypt_hash": bcrypt_hash,
            "environment_file": environment_file,
            "rabbitmq_hash": rabbitmq_hash,
            "redis_hash": redis_hash,
            "url_encoded": url_encoded,
        }

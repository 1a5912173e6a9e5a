"""Hashes of passwords as the servers store them, so that an inventory holds each password once.

A placeholder ``${NAME}`` stays one: ``scripts/secrets`` fills in the hash instead, by the ending of its name.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


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


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[[str], str]]:
        """Return the filters by name."""
        return {"redis_hash": redis_hash, "rabbitmq_hash": rabbitmq_hash}

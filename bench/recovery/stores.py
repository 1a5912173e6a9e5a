"""Where the results are, for the systems that ask redis-py's Sentinel client."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

from bench import cluster


def sentinels() -> tuple[list[tuple[str, int]], str, dict[str, Any], dict[str, Any]]:
    """Return the addresses, the name of the primary, what the Sentinels get, and what the data nodes get."""
    addresses, user = cluster.sentinels(os.environ)
    login = urlsplit(os.environ["BENCH_REDIS"])
    limits = {"socket_timeout": 5, "socket_connect_timeout": 2}  # seconds; as Holdfast's
    asked = user | {"socket_timeout": 1, "socket_connect_timeout": 1}
    given = {"username": login.username, "password": unquote(login.password or ""), **limits}
    return addresses, os.environ["HOLDFAST_SENTINEL_MASTER"], asked, given

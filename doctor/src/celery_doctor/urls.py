"""Addresses of brokers and result stores, judged by their scheme as kombu and Celery read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

KINDS = {
    "": "amqp", "amqp": "amqp", "amqps": "amqp", "pyamqp": "amqp", "librabbitmq": "amqp",
    "redis": "redis", "rediss": "redis", "sentinel": "redis", "valkey": "redis", "valkeys": "redis",
    "memory": "memory", "filesystem": "memory",
    "rpc": "rpc", "amqp-results": "rpc",
    "cache": "cache", "django-cache": "cache", "memcache": "cache", "memcached": "cache", "pylibmc": "cache",
    "db": "database", "database": "database", "sqla": "database", "sqlalchemy": "database", "django-db": "database",
}  # fmt: skip
SECURE = {"amqps", "rediss", "valkeys"}


@dataclass(frozen=True)
class Address:
    """One address of a list.

    Attributes:
        scheme: the part that chooses the transport or backend, without what follows a ``+``.
        driver: what stands before a ``+`` and names a class of its own, or an empty text.
        parts: the URL, split.
    """

    scheme: str
    driver: str
    parts: SplitResult

    @property
    def kind(self) -> str:
        """``amqp``, ``redis``, ``database``, ...; the scheme itself when nothing more is known."""
        return KINDS.get(self.scheme, self.scheme)

    @property
    def options(self) -> dict[str, str]:
        """What stands behind the question mark."""
        return dict(parse_qsl(self.parts.query))

    @property
    def place(self) -> str:
        """Host and port, never a password."""
        return self.parts.netloc.rpartition("@")[2] or self.scheme


def read(value: object, *, bare_is_name: bool = False) -> list[Address]:
    """Split a setting into its addresses; empty parts, such as behind a trailing ``;``, are no address.

    Args:
        value: a URL, several joined by ``;``, or a list of them.
        bare_is_name: whether a text without ``://`` names a result backend (``rpc``); for a broker it is a host.

    Raises:
        ValueError: it is neither text nor a list.
    """
    if value is None or value == "":
        return []
    if not isinstance(value, (str, list, tuple, set)):
        raise ValueError(f"an address is {value!r}, a text or a list of texts is needed")  # noqa: TRY004 - a setting
    entries: Iterable[object] = [value] if isinstance(value, str) else value
    texts = [part.strip() for entry in entries for part in str(entry).split(";")]
    addresses: list[Address] = []
    for text in texts:
        if text:
            addresses.append(_one(text, addresses[0] if addresses else None, bare_is_name=bare_is_name))
    return addresses


def _one(text: str, first: Address | None, *, bare_is_name: bool) -> Address:
    head, found, rest = text.partition("://")
    if not found:
        if bare_is_name and first is None:
            return Address(text, "", urlsplit(""))
        return Address(first.scheme if first else "", "", urlsplit(f"//{text}"))  # a bare host takes the first's scheme
    driver, plus, scheme = head.rpartition("+")
    if plus and (KINDS.get(driver) or "." not in driver):
        # "db+postgresql://", "redis+socket://", "sqla+mysql://": the first word chooses, as in Celery
        return Address(driver.split("+")[0], "", urlsplit(f"{scheme}://{rest}"))
    return Address(scheme, driver, urlsplit(f"{scheme}://{rest}"))  # "package.module:Class+sentinel://"

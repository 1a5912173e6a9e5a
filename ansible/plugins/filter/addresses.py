"""Addresses as servers and their clients write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable


def port(address: str) -> str:
    """Return the port of ``address``, which is of the form ``HOST:PORT`` or ``:PORT``.

    Raises:
        AnsibleFilterError: it has none.
    """
    number = str(address).rpartition(":")[2]
    if ":" not in str(address) or not number.isdecimal() or not 0 < int(number) < 65536:
        raise AnsibleFilterError(
            f"found: the address {address}. allowed: HOST:PORT, such as 0.0.0.0:9090. next: correct it in the inventory"
        )
    return number


def with_login(urls: list[str], user: str, password: str) -> str:
    """Return URLs with a login, joined by commas as ``HOLDFAST_BROKER_URL`` has them."""
    login = f"{quote(str(user), safe='')}:{quote(str(password), safe='')}@"
    return ",".join(str(url).replace("://", f"://{login}", 1) for url in urls)


def with_path(urls: list[str], path: str) -> list[str]:
    """Return URLs that end in a path, such as a virtual host, whether or not a slash is there."""
    return [f"{str(url).rstrip('/')}/{path}" for url in urls]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"port": port, "with_login": with_login, "with_path": with_path}

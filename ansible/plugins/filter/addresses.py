"""Addresses as servers and their clients write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[[str], str]]:
        """Return the filters by name."""
        return {"port": port}

"""A virtual host of the drill's own on the brokers, and the environments that lead an application to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from holdfast.environment import split_urls

if TYPE_CHECKING:
    from pathlib import Path

    from drill.selftest.mutants import Mutant, Topology

VHOST = "drill"
DATABASE = 2  # of the Redis set, for tasks of the comparison
BROKER = "HOLDFAST_BROKER_URL"


def use_vhost(environment: dict[str, str]) -> None:
    """Point the application's environment at the drill's virtual host."""
    environment[BROKER] = _moved(environment[BROKER], VHOST)


def use_redis(environment: dict[str, str], profile: dict[str, str]) -> None:
    """Point the application's environment at Redis as the broker, in the drill's own database."""
    environment[BROKER] = _moved(profile[BROKER], DATABASE)


def _moved(urls: str, name: str | int) -> str:
    return ",".join(urlsplit(url)._replace(path=f"/{name}").geturl() for url in split_urls(urls))


class VirtualHost:
    """Makes the drill's virtual host from the stack's own definitions, and removes it.

    Args:
        address: of a broker.
        password: of the user ``admin``.
        definitions: the stack's topology file.
    """

    def __init__(self, address: str, password: str, definitions: Path) -> None:
        self._client = httpx.Client(base_url=f"http://{address}:15672/api/", auth=("admin", password), timeout=60)
        self._definitions = definitions

    def make(self, mutant: Mutant) -> None:
        """Make it, empty, with the changes of a mutant."""
        self.remove()
        self._ask(
            "PUT",
            f"vhosts/{VHOST}",
            {"default_queue_type": "classic" if mutant.stock and not mutant.quorum else "quorum"},
        )
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        for user in ("app", "worker", "admin"):
            self._ask("PUT", f"permissions/{VHOST}/{user}", everything)
        self._ask("PUT", f"permissions/{VHOST}/monitor", dict.fromkeys(everything, "^$"))
        content = json.loads(self._definitions.read_text())
        kinds = ("policies", "exchanges", "queues", "bindings")
        topology: Topology = {
            kind: [{key: value for key, value in entry.items() if key != "vhost"} for entry in content[kind]]
            for kind in kinds
        }
        if mutant.topology:
            mutant.topology(topology)
        self._ask("POST", f"definitions/{VHOST}", topology)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        answer = self._client.delete(f"vhosts/{VHOST}")
        if answer.status_code not in {204, 404}:
            answer.raise_for_status()

    def _ask(self, method: str, path: str, body: object) -> None:
        self._client.request(method, path, json=body).raise_for_status()

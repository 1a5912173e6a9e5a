"""Looks at a Redis or Valkey that is one address, and says what it confirms.

It writes one key, which lives for a minute: who has written nothing has nothing to be confirmed, and every replica
would count. In check mode it writes nothing, so that this one check says little.

By hand: a host needs nothing but Python to be looked from.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any, BinaryIO

from ansible.module_utils.basic import AnsibleModule

SECONDS = 10  # for one answer
CONFIRM = 2000  # milliseconds that replicas have
KEY = "celery-task-meta-holdfast-preflight"  # where the login may write, if its keys are limited to those of results
LIFE = 60  # seconds


class SaidError(Exception):
    """The server answers with an error."""


class Link:
    """A connection to the server.

    Args:
        address: host and port.
        authorities: certificates of whoever signed the server's; an empty text for those that the system trusts.
        tls: False for a server without TLS.
    """

    def __init__(self, address: tuple[str, int], authorities: str, *, tls: bool = True) -> None:
        trusted = authorities.encode("ascii", "ignore").decode()  # comments may have any letters
        context = ssl.create_default_context(cadata=trusted or None) if tls else None
        plain = socket.create_connection(address, SECONDS)
        self._socket = context.wrap_socket(plain, server_hostname=address[0]) if context else plain
        self._file: BinaryIO = self._socket.makefile("rb")

    def ask(self, *words: object) -> Any:
        """Send a command and return its answer.

        Raises:
            SaidError: it is refused.
            OSError: there is none.
        """
        parts = [str(word).encode() for word in words]
        sent = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(sent)
        return self._answer()

    def _answer(self) -> Any:
        line = self._file.readline()
        if not line:
            raise OSError("the server closed the connection")
        kind, rest = line[:1], line[1:].rstrip(b"\r\n").decode(errors="replace")
        if kind == b"-":
            raise SaidError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == "-1" else self._file.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return [self._answer() for _ in range(int(rest))]
        return rest

    def info(self) -> dict[str, str]:
        """Return what the server says of itself."""
        lines = (line.partition(":") for line in str(self.ask("INFO")).splitlines())
        return {key: value.strip() for key, sign, value in lines if sign}


def confirmed(link: Link, replicas: int, fsync: bool, *, writes: bool) -> Any:
    """Return how many confirm: replicas, or with ``fsync`` the server itself and its replicas; an error as its text."""
    try:
        if writes:
            link.ask("SET", KEY, "1", "EX", LIFE)
        return link.ask("WAITAOF", 1, replicas, CONFIRM) if fsync else link.ask("WAIT", replicas, CONFIRM)
    except SaidError as error:
        return str(error)


def checks(link: Link, replicas: int, fsync: bool, *, writes: bool) -> list[dict[str, Any]]:
    """Return what the server is and does, each as a check."""
    said = link.info()
    cluster, role, policy = (said.get(key) for key in ("cluster_enabled", "role", "maxmemory_policy"))
    answer = confirmed(link, replicas, fsync, writes=writes)
    enough = isinstance(answer, list) and answer[0] >= 1 and answer[1] >= replicas
    enough = enough if fsync else isinstance(answer, int) and answer >= replicas
    return [
        {"check": "cluster mode of the result store", "ok": cluster in (None, "0"), "found": cluster, "allowed": "off",
         "next": "take one with cluster mode off: Celery's keys of one chord would lie on several nodes"},
        {"check": "role of the result store", "ok": role in (None, "master"), "found": role, "allowed": "master",
         "next": "name the primary's address in redis_external, not that for readers"},
        {"check": "eviction of the result store", "ok": policy in (None, "noeviction"), "found": policy,
         "allowed": "noeviction: anything else throws results and chords away",
         "next": "set maxmemory-policy in the service's parameters"},
        {"check": "confirmation of a write by the result store", "ok": enough, "found": answer,
         "allowed": f"{replicas} replica(s)" + (" and the primary, by their disks" if fsync else ""),
         "next": "add replicas at the service; or write what it can confirm into redis_external: replicas, and "
                 "fsync: false for one without an append-only file. docs/how-to/managed-services.md says what is lost"},
    ]  # fmt: skip


def main() -> None:
    """Run as Ansible's module."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "user": {"type": "str", "default": "default"},
            "password": {"type": "str", "required": True, "no_log": True},
            "authorities": {"type": "str", "default": ""},
            "tls": {"type": "bool", "default": True},
            "replicas": {"type": "int", "default": 1},
            "fsync": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    host, _, port = given["address"].partition(":")
    try:
        link = Link((host, int(port or 6379)), given["authorities"], tls=given["tls"])
        link.ask("AUTH", given["user"], given["password"])
        found = checks(link, given["replicas"], given["fsync"], writes=not module.check_mode)
    except (OSError, ValueError, SaidError) as error:
        refused = {
            "check": "answer of the result store", "ok": False,
            "found": f"{given['address']} as {given['user']}: {error}",
            "allowed": "a Redis over TLS that is reached from this host, lets the login in and has a certificate of "
                       "ca_file",
            "next": "correct redis_external and its password, or let this host in at the service",
        }  # fmt: skip
        said = "found:   {found}\nallowed: {allowed}\nnext:    {next}".format_map(refused)
        module.fail_json(msg=said, checks=[refused])
    module.exit_json(changed=False, checks=found)


if __name__ == "__main__":
    main()

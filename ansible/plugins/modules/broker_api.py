"""Declares queues, policies and users at a RabbitMQ over its management API: a service of others has no shell.

First everything is read, and what contradicts the design is an error before anything is changed. A second run changes
nothing. In check mode, which ``verify`` uses, it says what it would change. An error is among the checks, too.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30  # for one answer
MAJORITY = 3  # nodes with which a quorum queue survives the loss of one


class RefusedError(Exception):
    """The API refuses, does not answer, or has what contradicts the design.

    Args:
        found: what is there.
        allowed: what may be there.
        next_step: what to do.
    """

    def __init__(self, found: str, allowed: str, next_step: str) -> None:
        super().__init__(f"found:   {found}\nallowed: {allowed}\nnext:    {next_step}")
        self.check = {"check": "answer of the service", "ok": False, "found": found, "allowed": allowed,
                      "next": next_step}  # fmt: skip


class Api:
    """The management API of a broker.

    Args:
        url: ``https://host``, with or without a port.
        user: the login.
        password: its password.
        authorities: certificates of whoever signed the service's; an empty text for those that the system trusts.

    Raises:
        RefusedError: the certificates cannot be read.
    """

    def __init__(self, url: str, user: str, password: str, authorities: str) -> None:
        self.url = url.rstrip("/")
        self.user = user
        try:  # comments beside the certificates may have any letters
            self._context = ssl.create_default_context(cadata=authorities.encode("ascii", "ignore").decode() or None)
        except (ssl.SSLError, ValueError) as error:
            raise RefusedError(
                f"ca_file of rabbitmq_external: {error}",
                "a PEM file with the authority that signed the service's certificate",
                "download it from the service again",
            ) from error
        self._login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Return a document, None when there is none of that name.

        Raises:
            RefusedError: the API refuses, or does not answer.
        """
        headers = {"Authorization": self._login, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", data, headers, method=method)  # noqa: S310 - an inventory names it
        try:
            with urllib.request.urlopen(request, timeout=SECONDS, context=self._context) as answer:  # noqa: S310 - as above
                content = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404 and method == "GET":
                return None
            said = error.read(2000).decode(errors="replace")
            raise RefusedError(
                f"{method} {path} as {self.user}: {error.code} {said}",
                "a login of the service that may do this, and policies that the service takes",
                "give it the tag administrator, or with users: false policymaker and monitoring; a policy key that the "
                "service refuses goes into policy_keys_refused",
            ) from error
        except (OSError, ValueError) as error:
            raise RefusedError(
                f"no answer from {self.url}: {error}",
                "the management API over TLS, reached from this host, with a certificate of ca_file",
                "correct api and ca_file of rabbitmq_external, or let this host in at the service",
            ) from error
        return json.loads(content) if content else None


def name(text: str) -> str:
    """Return a name as it stands in a path."""
    return quote(text, safe="")


def looked(api: Api, least: str) -> list[dict[str, Any]]:
    """Return what can be seen without a shell, each as a check."""
    seen = api.ask("overview") or {}
    version = str(seen.get("rabbitmq_version", ""))
    nodes = api.ask("nodes") or []
    running = [one for one in nodes if one.get("running")]
    alarms = [f"{one['name']}: {kind}" for one in nodes for kind in ("mem_alarm", "disk_free_alarm") if one.get(kind)]
    parts = [[int(part) for part in text.split(".")[:3] if part.isdecimal()] for text in (version, least)]
    return [
        {"check": "version of the service", "ok": parts[0] >= parts[1], "found": version,
         "allowed": f"{least} or above",
         "next": "upgrade it, or read in docs/how-to/managed-services.md what an older one loses"},
        {"check": "running nodes of the service", "ok": len(running) >= MAJORITY, "found": len(running),
         "allowed": f"{MAJORITY} or more: with fewer the loss of one is the loss of the tasks",
         "next": "take a cluster of three nodes at the service"},
        {"check": "alarms of the service", "ok": not alarms, "found": alarms, "allowed": [],
         "next": "give it memory or disk: it takes no message now"},
    ]  # fmt: skip


class Changes:
    """What is to be done at one virtual host, in the order in which it is safe.

    Args:
        api: of the broker.
        wanted: definitions as ``topology.json`` and ``users.json`` have them, together, but for the passwords.
        hashes: of the users' passwords, by their names.
        refused: keys that no policy may have.
    """

    def __init__(self, api: Api, wanted: dict[str, Any], hashes: dict[str, str], refused: list[str]) -> None:
        self.api = api
        self.wanted = wanted
        self.hashes = hashes
        self.refused = refused
        self.vhost: dict[str, Any] = wanted["vhosts"][0]
        self.at = name(self.vhost["name"])

    def all(self) -> list[tuple[str, str, str, Any]]:
        """Return what is missing or different: a text, method, path and body of each.

        Raises:
            RefusedError: something is there already that contradicts the design.
        """
        there = self.api.ask(f"vhosts/{self.at}")
        found = [] if there else [("virtual host " + self.vhost["name"], "PUT", f"vhosts/{self.at}",
                                   self.vhost["metadata"])]  # fmt: skip
        return [*found, *self._users(), *self._policies(), *self._named("exchanges"), *self._named("queues"),
                *self._bindings()]  # fmt: skip

    def _there(self, kind: str) -> list[dict[str, Any]]:
        return list(self.api.ask(f"{kind}/{self.at}") or ())

    def _named(self, kind: str) -> Iterator[tuple[str, str, str, Any]]:
        there = {one["name"]: one for one in self._there(kind)}
        for one in self.wanted[kind]:
            found = there.get(one["name"])
            body = {key: value for key, value in one.items() if key not in ("name", "vhost")}
            if found is None:
                yield f"{kind[:-1]} {one['name']}", "PUT", f"{kind}/{self.at}/{name(one['name'])}", body
            elif {key: found.get(key) for key in body} != body:
                differs = [f"{key} {found.get(key)}" for key in body if found.get(key) != body[key]]
                raise RefusedError(
                    f"{kind[:-1]} {one['name']} with {', '.join(differs)}",
                    f"{', '.join(f'{key} {body[key]}' for key in body if found.get(key) != body[key])}",
                    "another virtual host (rabbitmq_vhost); or move the tasks away and delete it, as "
                    "docs/how-to/classic-to-quorum.md says",
                )

    def _policies(self) -> Iterator[tuple[str, str, str, Any]]:
        there = {one["name"]: one for one in self._there("policies")}
        for one in self.wanted["policies"]:
            definition = {key: value for key, value in one["definition"].items() if key not in self.refused}
            body = {"pattern": one["pattern"], "definition": definition, "priority": 0, "apply-to": one["apply-to"]}
            found = there.get(one["name"], {})
            if {key: found.get(key) for key in body} != body:
                yield f"policy {one['name']}", "PUT", f"policies/{self.at}/{name(one['name'])}", body

    def _bindings(self) -> Iterator[tuple[str, str, str, Any]]:
        def key(one: dict[str, Any]) -> tuple[str, str, str, str]:
            return one["source"], one["destination_type"], one["destination"], one["routing_key"]

        there = {key(one) for one in self._there("bindings")}
        for one in self.wanted["bindings"]:
            if key(one) not in there:
                kind = "q" if one["destination_type"] == "queue" else "e"
                path = f"bindings/{self.at}/e/{name(one['source'])}/{kind}/{name(one['destination'])}"
                body = {"routing_key": one["routing_key"], "arguments": {}}
                yield f"binding {one['source']} -> {one['destination']}", "POST", path, body

    def _users(self) -> Iterator[tuple[str, str, str, Any]]:
        for one in self.wanted["users"]:
            path = f"users/{name(one['name'])}"
            body = {"password_hash": self.hashes[one["name"]], "hashing_algorithm": one["hashing_algorithm"],
                    "tags": one["tags"]}  # fmt: skip
            found = self.api.ask(path) or {}
            if {key: found.get(key) for key in body} != body:
                yield f"user {one['name']}", "PUT", path, {**body, "tags": ",".join(body["tags"])}
        for one in self.wanted["permissions"]:
            path = f"permissions/{self.at}/{name(one['user'])}"
            body = {key: one[key] for key in ("configure", "write", "read")}
            found = self.api.ask(path) or {}
            if {key: found.get(key) for key in body} != body:
                yield f"permissions of {one['user']}", "PUT", path, body


def main() -> None:
    """Run as Ansible's module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "authorities": {"type": "str", "default": ""},
            "minimum_version": {"type": "str", "required": True},
            "definitions": {"type": "dict"},
            "hashes": {"type": "dict", "default": {}, "no_log": True},
            "policy_keys_refused": {"type": "list", "elements": "str", "default": [], "no_log": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        api = Api(given["url"], given["user"], given["password"], given["authorities"])
        checks = looked(api, given["minimum_version"])
        wanted = given["definitions"]
        changes = Changes(api, wanted, given["hashes"], given["policy_keys_refused"]).all() if wanted else []
        for _, method, path, body in changes if not module.check_mode else ():
            api.ask(path, method, body)
    except RefusedError as error:
        module.fail_json(msg=str(error), checks=[error.check])
    module.exit_json(changed=bool(changes), checks=checks, changes=[what for what, *_ in changes])


if __name__ == "__main__":
    main()

"""What is wrong with an inventory, found before anything is changed: groups, addresses, names and passwords."""

from __future__ import annotations

import difflib
import functools
import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROLES = Path(__file__).parents[2] / "roles"
# Groups without which there is no deployment
GROUPS = ("rabbitmq", "redis", "sentinel", "app", "workers")
# Variables that belong to no single role, and what playbooks take by -e
COMMON = {
    "holdfast_address", "holdfast_app_user", "holdfast_drill", "holdfast_net", "holdfast_passwords",
    "holdfast_passwords_before", "holdfast_worker_user", "app_to", "backup_dir", "backup_keep", "canary_task",
    "client_dir", "client_home", "client_name", "client_state", "rabbitmq_reinstall", "rabbitmq_target", "render_dir",
    "replace_host", "replace_old", "restore_confirmed", "restore_from",
    "rotate_clients", "rotate_finish", "rotate_names", "scale_remove",
}  # fmt: skip
# Lists of addresses beside those of the hosts
NETWORKS = ("firewall_clients", "firewall_operators")
# Passwords that every deployment has
PASSWORDS = (
    "erlang_cookie", "rabbitmq_app", "rabbitmq_worker", "rabbitmq_operator", "rabbitmq_flower", "rabbitmq_monitor",
    "rabbitmq_admin", "redis_app", "redis_worker", "redis_beat", "redis_replica", "redis_sentinel", "redis_monitor",
    "redis_admin", "sentinel_app", "sentinel_peer",
)  # fmt: skip
# Those that stand in a file of a server which knows no way to quote them, or not the same one for all its readers
UNQUOTED = (
    "erlang_cookie", "redis_replica", "redis_sentinel", "redis_monitor", "redis_admin", "sentinel_peer", "flower",
    "grafana", "prometheus", "alertmanager",
)  # fmt: skip
PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
CLIENT = re.compile(r"[a-z][a-z0-9-]*")  # RabbitMQ, Redis and a certificate take it as it is
PLACEHOLDER = "${"  # scripts/secrets fills it in


@functools.cache
def roles() -> list[str]:
    """Return the names of the roles."""
    return sorted(path.parents[1].name for path in ROLES.glob("*/meta/argument_specs.yml"))


@functools.cache
def known() -> frozenset[str]:
    """Return every variable that an inventory may set."""
    names = set(COMMON)
    for role in roles():
        specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
        names |= {name for entry in specs["argument_specs"].values() for name in entry.get("options", {})}
        defaults = ROLES / role / "defaults/main.yml"
        if defaults.exists():
            names |= set(yaml.safe_load(defaults.read_text(encoding="utf-8")))
    return frozenset(names)


def fault(found: str, allowed: str, next_step: str) -> str:
    """Return a message in the form of all others."""
    return f"found:   {found}\nallowed: {allowed}\nnext:    {next_step}"


def unknown(names: set[str], allowed: frozenset[str]) -> Iterator[str]:
    """Yield what is wrong with the names of variables: those of a role that it does not know, and misspelt ones."""
    prefixes = tuple(f"{role}_" for role in [*roles(), "holdfast"])
    for name in sorted(names - allowed):
        written = name.lower().replace("-", "_")
        ours = written.startswith(prefixes)
        near = difflib.get_close_matches(written, allowed, 1, 0.6 if ours else 0.88)
        if ours or near:
            yield fault(
                f"the variable {name}, which no role has",
                f"{near[0]}, or another variable of argument_specs.yml"
                if near
                else "the variables of argument_specs.yml",
                f"write {near[0]}"
                if near
                else "correct it; variables of your own do not begin with the name of a role",
            )


def empty(groups: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the groups that have no host."""
    for name in GROUPS:
        if not groups.get(name):
            near = difflib.get_close_matches(name, set(groups) - set(GROUPS), 1)
            yield fault(
                f"no host in the group {name}" + (f", but a group {near[0]}" if near else ""),
                f"hosts in each of {', '.join(GROUPS)}",
                "correct the hosts file, whose form is that of ansible/inventories/example/hosts.yml",
            )


def value(variables: Mapping[str, Any], name: str) -> Any:
    """Return a variable, None when it is missing, and the error as text when it cannot be computed."""
    try:
        return variables.get(name)
    except Exception as error:  # noqa: BLE001 - whatever a template raises is the answer
        return f"({type(error).__name__}: {str(error).splitlines()[0]})"


def address(host: str, variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the addresses of a host."""
    found = value(variables, "holdfast_address")
    if found is None or not _is_address(str(found), ipaddress.IPv4Address):
        yield fault(
            f"holdfast_address of {host} is {'missing' if found is None else found}{_version(str(found))}",
            "the IPv4 address on which the other hosts reach it, such as 192.0.2.11",
            f"write holdfast_address for {host} into the hosts file",
        )
    for name in NETWORKS:
        for item in value(variables, name) or ():
            if not _is_address(str(item), ipaddress.IPv4Network):
                yield fault(
                    f"{name} has {item}{_version(str(item))}",
                    "IPv4 addresses and networks, such as 192.0.2.0/24",
                    f"correct {name}",
                )


def clients(variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the publishers outside of the inventory; a run of issue_client changes their logins."""
    listed = value(variables, "holdfast_clients") or []
    names = []
    for entry in listed if isinstance(listed, (list, tuple)) else [listed]:
        given = dict(entry) if hasattr(entry, "items") else {"name": entry}
        names.append(str(given.get("name")))
        addresses = given.get("addresses")
        good = isinstance(addresses, list) and all(_is_address(str(one), ipaddress.IPv4Network) for one in addresses)
        if set(given) != {"name", "addresses"} or not CLIENT.fullmatch(names[-1]) or not good:
            yield fault(
                f"holdfast_clients has {given}",
                "{ name: web, addresses: [192.0.2.0/24] }: a name of a-z 0-9 -, a list of IPv4 addresses and networks",
                "correct holdfast_clients",
            )
    issued = value(variables, "holdfast_client_passwords") or {}
    if value(variables, "client_name") is None:
        for name in sorted(set(issued) - set(names)):
            yield fault(
                f"logins of the client {name}, which holdfast_clients does not have",
                "logins for the names of holdfast_clients",
                f"remove them: issue_client -e client_name={name} -e client_state=absent; or put it back into the list",
            )


def _is_address(text: str, kind: Callable[[str], object]) -> bool:
    try:
        kind(text)
    except ValueError:
        return PLACEHOLDER in text
    return True


def _version(text: str) -> str:
    return " (IPv6)" if ":" in text and not text.startswith("(") else ""


def passwords(found: Any, *, made: bool) -> Iterator[str]:
    """Yield what is wrong with the passwords; none of them is shown.

    Args:
        found: the passwords by name.
        made: those that are missing will be made; a misspelt name is wrong all the same.
    """
    given = found if hasattr(found, "items") else {}
    for name in PASSWORDS:
        if name not in given:
            near = difflib.get_close_matches(name, set(given) - set(PASSWORDS), 1, 0.8)
            if made and not near:
                continue
            yield fault(
                f"no {name} in holdfast_passwords" + (f", but {near[0]}" if near else ""),
                "the names of ansible/inventories/example/group_vars/all/main.yml",
                f"rename {near[0]}" if near else "run make secrets, which makes the missing ones and keeps the others",
            )
    for name in UNQUOTED:
        text = str(given.get(name) or "")
        if text and PLACEHOLDER not in text and not PLAIN.fullmatch(text):
            yield fault(
                f"holdfast_passwords.{name} has characters that a configuration file would need quoted",
                "A-Z a-z 0-9 _ . - for " + ", ".join(UNQUOTED) + "; any character for the others",
                f"choose another password for {name}",
            )


def inventory_faults(
    hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], makes_passwords: bool = False
) -> list[str]:
    """Return what is wrong with an inventory, each with what is allowed and the next step; empty when all is well.

    Args:
        hostvars: Ansible's variables of each host.
        groups: Ansible's groups, with the names of their hosts.
        makes_passwords: the playbook makes the passwords that are missing.
    """
    found = list(empty(groups))
    if found:
        return found  # the rest would only follow from it
    allowed = known()
    names: set[str] = set()
    for host in groups["all"]:
        names |= set(hostvars[host].keys())
        found += address(host, hostvars[host])
    found += unknown(names, allowed)
    found += clients(hostvars[groups["rabbitmq"][0]])
    found += passwords(value(hostvars[groups["rabbitmq"][0]], "holdfast_passwords"), made=makes_passwords)
    return list(dict.fromkeys(found))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Return the filters by name."""
        return {"inventory_faults": inventory_faults}

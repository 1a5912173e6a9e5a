"""What is wrong with an inventory, found before anything is changed: groups, addresses, names and passwords."""

from __future__ import annotations

import difflib
import functools
import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ansible.vars.hostvars import HostVars, HostVarsVars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROLES = Path(__file__).parents[2] / "roles"
# Groups without which there is no deployment
GROUPS = ("rabbitmq", "redis", "sentinel", "app", "workers")
# A service that somebody else runs: the groups that it stands for, and what its description may and must have
SERVICES = {"rabbitmq": ("rabbitmq",), "redis": ("redis", "sentinel")}
MAY = {
    "rabbitmq": {"urls", "api", "ca_file", "user", "users", "policy_keys_refused"},
    "redis": {"url", "ca_file", "user", "replicas", "fsync"},
}
MUST = {"rabbitmq": {"urls", "api", "ca_file", "user"}, "redis": {"url", "ca_file"}}
# Variables that belong to no single role, and what playbooks take by -e
COMMON = {
    "holdfast_address", "holdfast_app_user", "holdfast_drill", "holdfast_net", "holdfast_passwords",
    "holdfast_passwords_before", "holdfast_passwords_given", "holdfast_worker_user", "app_to", "backup_dir",
    "backup_keep", "canary_task", "client_dir", "client_home", "client_name", "client_state", "rabbitmq_reinstall",
    "rabbitmq_target", "render_dir", "replace_host", "replace_old", "restore_confirmed", "restore_from",
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


def empty(groups: Mapping[str, list[str]], replaced: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the groups that have no host, but for those that a service stands for."""
    for name in GROUPS:
        if not groups.get(name) and name not in replaced:
            near = difflib.get_close_matches(name, set(groups) - set(GROUPS), 1)
            yield fault(
                f"no host in the group {name}" + (f", but a group {near[0]}" if near else ""),
                f"hosts in each of {', '.join(GROUPS)}",
                "correct the hosts file, whose form is that of ansible/inventories/example/hosts.yml; "
                "a service of another's is rabbitmq_external or redis_external",
            )


def both(groups: Mapping[str, list[str]], services: Mapping[str, Any]) -> Iterator[str]:
    """Yield the groups that have hosts although a service stands for them."""
    for service in services:
        for name in SERVICES[service]:
            if groups.get(name):
                yield fault(
                    f"{service}_external, and {len(groups[name])} host(s) in the group {name}",
                    f"one of the two: hosts of your own, or the service; then {name} is empty",
                    f"take the hosts out of the group {name} in the hosts file, or remove {service}_external",
                )


def described(service: str, host: str, found: Any, variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the description of a service, a variable of a host; no password is shown."""
    name = f"{service}_external"
    if isinstance(found, Unknown):
        yield uncomputed(name, host, found)
        return
    if not isinstance(found, dict):
        yield fault(f"{name} is {found}", "a dictionary, as in docs/how-to/managed-services.md", f"correct {name}")
        return
    odd, missing = sorted(set(found) - MAY[service]), sorted(MUST[service] - set(found))
    if odd or missing:
        parts = [f"{name} with {', '.join(odd)}"] * bool(odd) + [f"{name} without {', '.join(missing)}"] * bool(missing)
        yield fault(
            " and ".join(parts),
            f"{', '.join(sorted(MAY[service]))}; of these {', '.join(sorted(MUST[service]))} always",
            f"correct {name}",
        )
        return
    if service == "rabbitmq":
        listed = found["urls"]
        if not isinstance(listed, (list, tuple)) or not listed or not all(_is_url(one, ("amqps",)) for one in listed):
            yield fault(
                f"{name}.urls is not a list of addresses over TLS",
                "[amqps://HOST:PORT], without a login and a path: rabbitmq_vhost is the virtual host",
                f"correct {name}.urls",
            )
        if not _is_url(found["api"], ("https",)):
            yield fault(
                f"{name}.api is not an address over TLS",
                "https://HOST or https://HOST:PORT, without a login and a path",
                f"correct {name}.api",
            )
    elif not _is_url(found["url"], ("rediss",), r"/\d+"):
        yield fault(
            f"{name}.url is not the address of a Redis over TLS",
            "rediss://HOST:PORT/0, without a login: one endpoint that takes reads and writes. Redis in cluster mode, "
            "and PostgreSQL for results, are not supported",
            f"correct {name}.url, or run Redis and Sentinel on hosts of your own",
        )
    if not _is_pem(Path(str(found["ca_file"]))):
        yield fault(
            f"no certificate in {found['ca_file']} on this controller ({name}.ca_file)",
            "a PEM file with the authority that signed the service's certificate",
            "download it from the service; for a public authority name the system's own file, on Debian "
            "/etc/ssl/certs/ca-certificates.crt",
        )
    if not value(variables, f"{name}_password"):
        yield fault(
            f"no {name}_password",
            f"the password of the login that {name} names",
            "write it into a file of group_vars/all that ansible-vault has encrypted",
        )
    if value(variables, "tls_enabled") is False:
        yield fault(
            f"{name} with tls_enabled: false",
            "TLS for every connection: a password and every task would cross networks that are not yours",
            "remove tls_enabled from the inventory",
        )


def watching(variables: Mapping[str, Any], groups: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield what is wrong with the dead man's switch, whose address is not shown, and with several Alertmanagers."""
    switch = value(variables, "alertmanager_heartbeat_url")
    known_here = not isinstance(switch, Unknown)  # it may need facts, which only the roles have
    if switch and known_here and not re.fullmatch(r"https?://[^/\s]+\S*", str(switch)):
        yield fault(
            "alertmanager_heartbeat_url, which is no address of the web",
            "https://HOST/PATH or http://HOST/PATH, or an empty text for no signal",
            "correct alertmanager_heartbeat_url",
        )
    silent = [name for name in ("prometheus", "alertmanager") if not groups.get(name)]
    if switch and silent:
        yield fault(
            f"alertmanager_heartbeat_url, and no host in the group {' and '.join(silent)}",
            "hosts in prometheus and in alertmanager, which send the signal together",
            "put a host into the group, or remove alertmanager_heartbeat_url",
        )
    count = len(groups.get("alertmanager") or ())
    if count > 1 and value(variables, "tls_enabled") is False:
        yield fault(
            f"{count} host(s) in the group alertmanager with tls_enabled: false",
            "one Alertmanager, or several with TLS: without it anybody could speak in their cluster",
            "take the others out of the group in the hosts file, or remove tls_enabled from the inventory",
        )


def own_hosts(services: Mapping[str, Any], needs: list[str]) -> Iterator[str]:
    """Yield the services whose servers the playbook would have to reach by a shell."""
    for service in services:
        if service in needs:
            yield fault(
                f"{service}_external, whose servers this playbook cannot reach",
                f"{service} on hosts of the inventory",
                "do it with the service's own means: docs/how-to/managed-services.md says which",
            )


def _is_url(text: Any, schemes: tuple[str, ...], path: str = "/?") -> bool:
    """Tell whether a text is an address of one of the schemes, without a login."""
    return bool(re.fullmatch(rf"(?:{'|'.join(schemes)})://[A-Za-z0-9.-]+(?::\d{{1,5}})?{path}", str(text)))


def _is_pem(file: Path) -> bool:
    """Tell whether a file has a certificate in it; an empty one may be what a failed download has left."""
    try:
        return "BEGIN CERTIFICATE" in file.read_text(errors="replace")
    except OSError:
        return False


class Unknown(str):
    """Why a variable cannot be computed here, in Ansible's words; it is true, since something is written there."""

    __slots__ = ()


def value(variables: Mapping[str, Any], name: str) -> Any:
    """Return a variable, None when it is missing, and ``Unknown`` when it cannot be computed."""
    try:
        return _whole(variables.get(name))
    except Exception as error:  # noqa: BLE001 - whatever a template raises is the answer
        return Unknown(str(error).strip().partition("\n")[0] or type(error).__name__)


def _whole(found: Any) -> Any:
    """Return a value with all that is in it: Ansible computes each part, or raises, when somebody looks at it."""
    if hasattr(found, "items"):
        return {key: _whole(one) for key, one in found.items()}
    if isinstance(found, (list, tuple)):
        return [_whole(one) for one in found]
    bool(found)  # what cannot be computed may come as an object that raises
    return found


def uncomputed(name: str, host: str, why: Unknown) -> str:
    """Return what to say of a variable of a host that cannot be computed."""
    return fault(
        f"{name} of {host} cannot be computed: {why}",
        "what the inventory tells by itself: no facts, which are read later",
        f"correct {name}, or write the value itself",
    )


def of_host(hostvars: Mapping[str, Mapping[str, Any]], host: str) -> Mapping[str, Any]:
    """Return a host's variables as its own tasks see them; those of ``hostvars[host]`` themselves see no hostvars."""
    if not isinstance(hostvars, HostVars):
        return hostvars[host]
    seen = {**hostvars.raw_get(host), "hostvars": hostvars}
    return HostVarsVars(seen, loader=hostvars._loader, host=host)  # type: ignore[no-any-return]  # Ansible has no types


def address(host: str, variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the address of a host; ``variables`` are those that other hosts see."""
    found = value(variables, "holdfast_address")
    if found is None or not _is_address(str(found), ipaddress.IPv4Address):
        said = f"cannot be computed by other hosts: {found}" if isinstance(found, Unknown) else f"is {found}"
        yield fault(
            f"holdfast_address of {host} {'is missing' if found is None else said}{_version(found)}",
            "the IPv4 address on which the other hosts reach it, such as 192.0.2.11",
            f"write holdfast_address for {host} into the hosts file",
        )


def networks(host: str, variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the lists of addresses beside those of the hosts; ``variables`` are as the host sees."""
    for name in NETWORKS:
        listed = value(variables, name)
        if isinstance(listed, Unknown):
            yield uncomputed(name, host, listed)
        elif listed is not None and not isinstance(listed, list):
            yield fault(f"{name} is {listed}", "a list of IPv4 addresses and networks", f"write {name}: [{listed}]")
        for item in listed if isinstance(listed, list) else ():
            if not _is_address(str(item), ipaddress.IPv4Network):
                yield fault(
                    f"{name} has {item}{_version(item)}",
                    "IPv4 addresses and networks, such as 192.0.2.0/24",
                    f"correct {name}",
                )


def clients(host: str, variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the publishers outside of the inventory; a run of issue_client changes their logins."""
    listed = value(variables, "holdfast_clients") or []
    issued = value(variables, "holdfast_client_passwords") or {}
    for name, found in (("holdfast_clients", listed), ("holdfast_client_passwords", issued)):
        if isinstance(found, Unknown):
            yield uncomputed(name, host, found)
            return
    names = []
    for entry in listed if isinstance(listed, list) else [listed]:
        given = entry if isinstance(entry, dict) else {"name": entry}
        names.append(str(given.get("name")))
        addresses = given.get("addresses")
        good = isinstance(addresses, list) and all(_is_address(str(one), ipaddress.IPv4Network) for one in addresses)
        if set(given) != {"name", "addresses"} or not CLIENT.fullmatch(names[-1]) or not good:
            yield fault(
                f"holdfast_clients has {given}",
                "{ name: web, addresses: [192.0.2.0/24] }: a name of a-z 0-9 -, a list of IPv4 addresses and networks",
                "correct holdfast_clients",
            )
    if not isinstance(issued, dict):
        yield fault(
            "holdfast_client_passwords is no dictionary",
            "logins by the name of a client, as issue_client writes them",
            "remove it, then run issue_client for each name of holdfast_clients",
        )
    elif value(variables, "client_name") is None:
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


def _version(found: Any) -> str:
    return " (IPv6)" if ":" in str(found) and not isinstance(found, Unknown) else ""


def passwords(host: str, found: Any, *, made: bool) -> Iterator[str]:
    """Yield what is wrong with the passwords; none of them is shown.

    Args:
        host: whose variable they are.
        found: the passwords by name.
        made: those that are missing will be made; a misspelt name is wrong all the same.
    """
    if isinstance(found, Unknown):
        yield uncomputed("holdfast_passwords", host, found)
        return
    given = found if isinstance(found, dict) else {}
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
    hostvars: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, list[str]],
    makes_passwords: bool = False,
    needs: list[str] | None = None,
) -> list[str]:
    """Return what is wrong with an inventory, each with what is allowed and the next step; empty when all is well.

    Args:
        hostvars: Ansible's variables of each host.
        groups: Ansible's groups, with the names of their hosts.
        makes_passwords: the playbook makes the passwords that are missing.
        needs: services that have to be on hosts of the inventory, of ``rabbitmq`` and ``redis``.
    """
    first = groups["all"][0] if groups.get("all") else ""
    common = of_host(hostvars, first) if first else {}
    services = {name: found for name in SERVICES if (found := value(common, f"{name}_external"))}
    found = list(empty(groups, tuple(group for name in services for group in SERVICES[name])))
    if found:
        return found  # the rest would only follow from it
    found += [*both(groups, services), *own_hosts(services, needs or [])]
    for name, description in services.items():
        found += described(name, first, description, common)
    allowed = known()
    names: set[str] = set()
    for host in groups["all"]:
        names |= set(hostvars[host].keys())
        found += [*address(host, hostvars[host]), *networks(host, of_host(hostvars, host))]
    found += unknown(names, allowed)
    found += clients(first, common)
    found += watching(common, groups)
    found += passwords(first, value(common, "holdfast_passwords"), made=makes_passwords)
    return list(dict.fromkeys(found))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Return the filters by name."""
        return {"inventory_faults": inventory_faults}

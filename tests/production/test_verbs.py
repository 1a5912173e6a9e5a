"""Every playbook on bare Debian hosts that the first verb makes on this machine; the last ones remove them.

A verb that stops or changes something runs under the drill's load, which counts what was lost. They run in the order of
this file; ``-k deploy`` runs one of them on hosts that are there. INVENTORY chooses the hosts: six by default, or the
three of ansible/inventories/lab-small, which carry everything. Logs: build/production/VERB.log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import sys
import time
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import yaml
from amqp import Connection
from amqp.exceptions import AccessRefused, AMQPError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from ..facts import FACTS
from ..lab.lab import ROOT, TLS, accepts, container
from ..stack.stack import wait_until
from .lab import LOGS
from .watch import Receiver, complete

if TYPE_CHECKING:
    from pathlib import Path

    from .lab import Lab

pytestmark = pytest.mark.timeout(7200)  # two hours: the slowest installs six hosts role by role, on a busy machine

ROLES = (
    "common", "firewall", "tls", "rabbitmq", "redis", "sentinel", "lab_database", "app", "workers", "beat", "relay",
    "exporters", "prometheus", "alertmanager",
)  # fmt: skip
PLAYED = ("tests/lab/test_doors.py", "tests/lab/test_secrets.py")  # they run playbooks many times
CLUSTER = 9094  # port of Alertmanager's cluster
LEDGERS = "/var/lib/holdfast/drill"  # what tasks have noted for the drill


def test_hosts(lab: Lab) -> None:
    lab.run("scripts/lab", "up", *lab.hosts)
    lab.play("secrets")


def test_refused(lab: Lab) -> None:
    """What is wrong is said before anything is changed."""
    two = lab.described()
    del two["children"]["rabbitmq"]["hosts"]["data3"]
    lab.refuses("2 host(s) in the group rabbitmq", "site", INVENTORY=lab.changed_inventory("wrong", two))

    four = lab.described()
    four["hosts"]["data4"] = four["hosts"]["data3"]
    four["children"]["rabbitmq"]["hosts"]["data4"] = {}
    lab.refuses("4 host(s) in the group rabbitmq", "site", INVENTORY=lab.changed_inventory("wrong", four))

    shared = lab.described()
    shared["hosts"]["data3"] = shared["hosts"]["data2"]
    lab.refuses("addresses", "site", INVENTORY=lab.changed_inventory("wrong", shared))

    alike = yaml.safe_load(yaml.safe_dump(lab.described()).replace("data3", "data1.other"))
    lab.refuses("two hosts with the same first label", "site", INVENTORY=lab.changed_inventory("wrong", alike))

    passwords = yaml.safe_load((lab.inventory / "group_vars/all/main.yml").read_text())["holdfast_passwords"]
    empty = {"holdfast_passwords": dict.fromkeys(passwords, "x" * 24) | {"flower": ""}}
    for words, variables in (
        ("no redis_app in holdfast_passwords", '{"holdfast_passwords": {"flower": ""}}'),
        ("no value for flower in holdfast_passwords", json.dumps(empty)),
        ("app_time_limit 3600 s", "app_time_limit=3600"),
        ("free on data1 for /var/lib", "rabbitmq_disk_free_limit=900TB"),
        ("of memory on data1", "rabbitmq_memory_limit=900GB"),
        ("with 0 wheel(s)", f"app_release={LOGS}"),
    ):
        lab.refuses(words, "site", "--extra-vars", variables)

    lab.on("data2", "touch", "/usr/bin/valkey-sentinel")
    lab.refuses("valkey on data2, while redis_server is redis", "site")
    lab.on("data2", "rm", "/usr/bin/valkey-sentinel")

    late = r"#!/bin/sh\necho \$((\$(date.right +%%s) + 3600))\n"
    move = "mv /usr/bin/date /usr/bin/date.right"
    lab.on("data2", "sh", "-c", f'{move}; printf "{late}" >/usr/bin/date; chmod +x /usr/bin/date')
    lab.refuses("data2 says", "site")
    lab.on("data2", "mv", "/usr/bin/date.right", "/usr/bin/date")


def test_bare(lab: Lab) -> None:
    lab.play("site", "--check")


def test_roles(lab: Lab) -> None:
    """Each role by itself, on what those before it have left; once more it changes nothing."""
    for name in ROLES:
        lab.play("role", "--extra-vars", f"role={name}")
        lab.unchanged("role", "--extra-vars", f"role={name}")


def test_site(lab: Lab) -> None:
    lab.play("site")


def test_verify(lab: Lab) -> None:
    lab.play("verify")


def test_guarded(lab: Lab) -> None:
    """Firewall, sandboxes, certificates, the database's TLS: tests of tests/lab, which leave the hosts as they were."""
    lab.run(sys.executable, "-m", "pytest", "--verbose", "tests/lab", *(f"--ignore={path}" for path in PLAYED))


def test_doors(lab: Lab) -> None:
    """Each door is opened, and ``verify`` names it; no playbook tells a secret."""
    lab.run(sys.executable, "-m", "pytest", "--verbose", *PLAYED)


def test_again(lab: Lab) -> None:
    lab.unchanged("site")


def test_check(lab: Lab) -> None:
    lab.unchanged("site", "--check")


def test_old(lab: Lab) -> None:
    lab.refuses("older ones have known defects", "site", "--extra-vars", "rabbitmq_minimum_version=99.0.0")


def test_moved(lab: Lab) -> None:
    """Another primary and other leaders are RabbitMQ's and Sentinel's own business."""
    lab.play("failover_redis")
    lab.on("data1", "bash", "-c", "rabbitmq-upgrade drain && rabbitmq-upgrade revive")
    lab.unchanged("site")


def test_settings(lab: Lab) -> None:
    """How long a converged site takes with the shipped settings of Ansible, and with its own."""
    stock = LOGS / "stock.cfg"
    stock.write_text(
        f"[defaults]\ncollections_path = {ROOT}/.collections\n"
        # without pipelining a user who is not root could not read the files of his modules
        "allow_world_readable_tmpfiles = True\n"
        "[inventory]\nignore_patterns = ^backups$, ^tls$, ^verify[.]json$\n"
    )
    seconds = {}
    for name, file in (("Ansible's own", stock), ("the shipped", ROOT / "ansible/ansible.cfg")):
        began = time.monotonic()
        lab.play("site", ANSIBLE_CONFIG=file)
        seconds[name] = round(time.monotonic() - began)
    lab.tell(f"converged site, seconds with settings: {seconds}")


def test_deploy(lab: Lab) -> None:
    release = lab.copied_release("again")
    with lab.load():
        lab.play("deploy", "--extra-vars", f"app_release={release}")


def test_broken(lab: Lab) -> None:
    """A release that cannot run is refused while the old one serves."""
    release = lab.copied_release("broken")
    locked = release / "requirements.txt"
    without = re.sub(r"^celery==(?:.*\\\n)*.*\n", "", locked.read_text(), flags=re.MULTILINE)
    assert without != locked.read_text()
    locked.write_text(without)
    before = lab.on(lab.worker, "readlink", "/opt/holdfast/current")
    with lab.load():
        said = lab.play("deploy", "--extra-vars", f"app_release={release}", fails=True)
    assert "Refuse a release that cannot load" in said, "the deploy failed before it tried the release"
    assert lab.on(lab.worker, "readlink", "/opt/holdfast/current") == before


def test_rollback(lab: Lab) -> None:
    with lab.load():
        lab.play("rollback")


def test_scale(lab: Lab) -> None:
    programs = [
        {"name": "default", "queue": "default", "concurrency": 3},
        {"name": "more", "queue": "default", "concurrency": 1},
        {"name": "critical", "queue": "critical", "concurrency": 1},
    ]
    with lab.load():
        lab.play("scale_workers", "--extra-vars", json.dumps({"workers_programs": programs}))
    with lab.load():
        lab.play("scale_workers")
    # a host that is drained stays so when it is drained again, and works again when it is wanted again
    with lab.load():
        lab.play("scale_workers", "--extra-vars", f"scale_remove={lab.worker}")
        lab.play("scale_workers", "--extra-vars", f"scale_remove={lab.worker}")
        lab.run("docker", "exec", container(lab.worker), "systemctl", "is-active", "supervisor", fails=True)
        lab.play("scale_workers")


def test_restart(lab: Lab) -> None:
    with lab.load():
        lab.play("rolling_restart")


def test_upgrade(lab: Lab) -> None:
    with lab.load():
        lab.play("upgrade_rabbitmq", "--extra-vars", "rabbitmq_reinstall=yes")


def test_certificates(lab: Lab) -> None:
    with lab.load():
        lab.play("rotate_certificates")


def test_authority(lab: Lab) -> None:
    """Another authority takes over, and the old one is refused at the end; the drill is a client from outside."""
    kept = "/root/before"
    ports = {"AMQP": 5671, "RabbitMQ's nodes": 25672, "metrics": 15691, "Redis": 6379, "Sentinel": 26379, "host": 9100}
    first = issuers(lab)
    assert len(first) == 1
    lab.on("data1", "sh", "-ec", f"rm -rf {kept}; cp -rL {TLS} {kept}")

    def doors(shown: str, trusted: str) -> list[str]:
        return [name for name, port in ports.items() if accepts("data1", f"{shown}/client", port, f"{trusted}/ca.pem")]

    with lab.load():
        said = lab.play("rotate_authority", fails=True)
        assert "clients outside of the inventory" in said
        assert issuers(lab) == first
        renew_the_drill(lab)
        lab.play("rotate_authority", "--extra-vars", "rotate_clients=ready")
        renew_the_drill(lab)
        connect_again(lab)
    second = issuers(lab)
    assert len(second) == 1
    assert second != first
    lab.unchanged("site", "--check")
    # the certificate of before is good until the end, for both sides
    assert doors(kept, TLS) == doors(TLS, TLS) == list(ports)
    assert doors(TLS, kept) == [], "the servers show certificates of the next authority"
    with lab.load():
        lab.play("rotate_authority", "--extra-vars", "rotate_finish=yes")
        connect_again(lab)
    assert doors(kept, TLS) == []
    assert doors(TLS, TLS) == list(ports)
    assert issuers(lab) == second
    lab.unchanged("site")
    lab.play("verify")
    lab.refuses("no rotation that has begun", "rotate_authority", "--extra-vars", "rotate_finish=yes")


def issuers(lab: Lab) -> set[str]:
    """Return who has signed the certificates of the hosts."""
    ask = f"for file in {TLS}/server.pem {TLS}/client.pem; do openssl x509 -noout -issuer -in $file; done"
    return {line for host in lab.hosts for line in lab.on(host, "sh", "-ec", ask).splitlines()}


def renew_the_drill(lab: Lab) -> None:
    """Give the drill's programs what a client outside of the inventory gets by hand: authorities and a certificate."""
    lab.play("parts/describe", "--extra-vars", f"render_dir={ROOT / 'build/drill' / lab.inventory.name}")


def connect_again(lab: Lab) -> None:
    """End every connection to the brokers and to Redis: all clients prove themselves again."""
    lab.on("data1", "rabbitmqctl", "--silent", "close_all_connections", "a test of certificates")
    for host in lab.described()["children"]["redis"]["hosts"]:
        lab.on(host, "holdfast-redis", "client", "kill", "type", "normal")


def test_secrets(lab: Lab) -> None:
    with lab.load():
        lab.play("rotate_secrets")
    lab.play("rotate_secrets", "--extra-vars", "rotate_finish=yes")


def test_outside(lab: Lab) -> None:
    """This machine as a client outside of the inventory: it publishes, consumes nothing, and is shut out alone."""
    written, home = LOGS / "issued", LOGS / "client"
    for folder in (written, home):
        shutil.rmtree(folder, ignore_errors=True)
    net = os.environ.get("HOLDFAST_LAB_NET", "172.30.78")
    # in other ways this address is let in, too: as that of the drill
    common = {"client_name": "outside", "client_dir": str(written), "client_home": str(home), "firewall_clients": []}
    issue = json.dumps(common | {"holdfast_clients": [{"name": "outside", "addresses": [f"{net}.128"]}]})

    lab.play("issue_client", "--check", "--extra-vars", issue)
    assert not written.exists()
    lab.play("issue_client", "--extra-vars", issue)
    shutil.move(written, home)
    # tasks go through every queue, and their results come back
    publish = 'set -a; . "$0/client.env"; exec "$1" ansible/roles/app/files/canary.py webhooks.app 60'
    lab.run("env", "-i", "sh", "-ec", publish, home, sys.executable)
    lab.play("verify", "--extra-vars", issue)

    broker = amqp(home, f"{net}.11")
    broker.connect()
    store, sentinel = (redis(home, f"{net}.11", port) for port in (6379, 26379))
    assert store.ping()
    assert sentinel.ping()
    with pytest.raises(AccessRefused, match="read access to queue 'default'"):
        broker.channel().basic_get("default")

    lab.refuses("take it out of holdfast_clients", "issue_client", "--extra-vars",
                json.dumps(json.loads(issue) | {"client_state": "absent"}))  # fmt: skip
    revoke = json.dumps(common | {"client_state": "absent"})
    lab.play("issue_client", "--extra-vars", revoke)
    with pytest.raises(AMQPError):
        broker.drain_events(timeout=30)
    for server in (store, sentinel):
        with pytest.raises(RedisError):
            server.ping()
    with pytest.raises(TimeoutError):
        amqp(home, f"{net}.11").connect()
    lab.play("role", "--extra-vars", "role=firewall")  # now this address is let in, as before
    with pytest.raises(AccessRefused):
        amqp(home, f"{net}.11").connect()
    for port in (6379, 26379):
        with pytest.raises(AuthenticationError):
            redis(home, f"{net}.11", port).ping()
    lab.play("issue_client", "--extra-vars", revoke)  # once more, as after an interruption
    lab.play("role", "--extra-vars", "role=firewall")
    lab.play("verify")


def issued(home: Path) -> dict[str, str]:
    """Return the settings of a client outside of the inventory."""
    lines = (home / "client.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def amqp(home: Path, address: str) -> Connection:
    """Return a connection of that client to a broker, which is not open yet."""
    url = urlsplit(issued(home)["HOLDFAST_BROKER_URL"].split(",")[0])
    tls = {
        "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": address, "ca_certs": f"{home}/ca.pem",
        "certfile": f"{home}/cert.pem", "keyfile": f"{home}/key.pem",
    }  # fmt: skip
    return Connection(
        host=f"{address}:{url.port}", userid=url.username or "", password=url.password or "",
        virtual_host=url.path[1:], ssl=tls, connect_timeout=5, read_timeout=30,
    )  # fmt: skip


def redis(home: Path, address: str, port: int) -> Redis:
    """Return that client's connection to Redis or to a Sentinel."""
    settings = issued(home)
    return Redis(
        host=address, port=port, username=settings["HOLDFAST_SENTINEL_USERNAME"],
        password=settings["HOLDFAST_SENTINEL_PASSWORD"], ssl=True, ssl_ca_certs=f"{home}/ca.pem",
        ssl_certfile=f"{home}/cert.pem", ssl_keyfile=f"{home}/key.pem", socket_timeout=5,
        retry=Retry(NoBackoff(), 0),  # the first refusal counts
    )  # fmt: skip


def test_failover(lab: Lab) -> None:
    with lab.load():
        lab.play("failover_redis")


def test_backup(lab: Lab) -> None:
    """What was deleted comes back, what is there stays."""
    copy = LOGS / "backup"
    shutil.rmtree(copy, ignore_errors=True)
    address = lab.on("data1", "holdfast-sentinel", "sentinel", "get-master-addr-by-name", "results").splitlines()[0]
    addresses = {host: lab.on(host, "getent", "ahostsv4", host).split()[0] for host in ("data1", "data2", "data3")}
    primary = next(host for host in addresses if addresses[host] == address)
    lab.on(primary, "holdfast-redis", "mset", "deleted-later", "backup", "kept", "backup")
    lab.play("backup", "--extra-vars", f"backup_dir={copy}")
    lab.on(primary, "holdfast-redis", "del", "deleted-later")
    lab.on(primary, "holdfast-redis", "set", "kept", "newer")
    lab.on(primary, "rabbitmqctl", "--silent", "delete_user", "flower")
    with lab.load():
        lab.play("restore", "--extra-vars", f"restore_from={copy}", "--extra-vars", "restore_confirmed=yes")
    assert lab.on(primary, "holdfast-redis", "mget", "deleted-later", "kept").split() == ["backup", "newer"]
    assert "flower" in lab.on(primary, "rabbitmqctl", "--silent", "list_users")
    lab.on(primary, "holdfast-redis", "del", "deleted-later", "kept")


def test_reboot(lab: Lab) -> None:
    for host in lab.one_of_each:
        with lab.load():
            lab.run("docker", "restart", container(host))
            lab.run("scripts/lab", "up", host)


def test_replace(lab: Lab) -> None:
    for host in lab.one_of_each:
        with lab.load():
            lose(lab, host)
            lab.play("replace_node", "--extra-vars", f"replace_host={host}")
        lab.play("site")


def lose(lab: Lab, host: str) -> None:
    """Kill a machine and give its name to a bare one.

    What its tasks have noted for the drill is carried over: a ledger stays outside of what is broken.
    """
    machine, kept = container(host), LOGS / "kept"
    lab.run("docker", "kill", machine)
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    if host in lab.described()["children"]["workers"]["hosts"]:  # no other host has any
        lab.run("docker", "cp", f"{machine}:{LEDGERS}/.", kept)
    lab.run("scripts/lab", "down", host)
    lab.run("scripts/lab", "up", host)
    lab.on(host, "mkdir", "-p", LEDGERS)
    lab.run("docker", "cp", f"{kept}/.", f"{machine}:{LEDGERS}")
    lab.on(host, "chmod", "-R", "a+rwX", LEDGERS)


def test_drill(lab: Lab) -> None:
    drill = ROOT / ".venv/bin/python"
    lab.run(drill, "-m", "drill", "run", "--inventory", lab.inventory, "--set", "smoke", "--seed", "1")


def test_watched(lab: Lab) -> None:
    """Two hosts watch everything and each other; somebody outside misses the signs of life when both are silent."""
    everything = lab.described()
    groups = everything["children"]
    (first,) = groups["prometheus"]["hosts"]
    second = next(host for host in groups["rabbitmq"]["hosts"] if host != first)
    for name in ("prometheus", "alertmanager"):
        groups[name] = {"hosts": {first: {}, second: {}}}
    two = lab.changed_inventory("watched", everything)
    (two / "tls").symlink_to(lab.inventory / "tls")  # the authority of these hosts
    for name in ("firewall", "alertmanager", "prometheus"):
        lab.play("role", "--extra-vars", f"role={name}", INVENTORY=two)
    for name in ("alertmanager", "prometheus"):
        lab.unchanged("role", "--extra-vars", f"role={name}", INVENTORY=two)
    for host in (first, second):
        wait_until(partial(complete, lab, host, 2), "it reads everything, the other one too", 120)
    lab.play("verify", INVENTORY=two)
    assert accepts(first, f"{TLS}/client", CLUSTER)
    assert not accepts(first, f"{TLS}/server", CLUSTER), "the cluster asks for the certificate of a client"

    address = lab.on(next(iter(groups["lab_receiver"]["hosts"])), "hostname", "--all-ip-addresses").split()[0]
    receiver = Receiver(f"http://{address}:8025")
    lab.tell(f"seconds between signs of life: {receiver.come(3)}")
    lab.on(second, "systemctl", "stop", "prometheus", "prometheus-alertmanager")
    for job in ("prometheus", "alertmanager"):
        told = partial(receiver.told, alertname="ScrapeTargetDown", job=job, instance=second)
        wait_until(told, f"the other one tells that {job} is away", 300)
    receiver.come(1)
    lab.on(second, "systemctl", "start", "prometheus-alertmanager", "prometheus")
    wait_until(partial(complete, lab, first, 2), "the second one is back", 120)

    stopped = time.time()
    for host in (first, second):
        lab.on(host, "systemctl", "stop", "prometheus")
    lab.tell(f"the last sign of life came {receiver.end() - stopped:.0f} s after Prometheus was stopped")
    for host in (first, second):
        lab.on(host, "systemctl", "start", "prometheus")
    receiver.come(2)

    units = ("prometheus", "prometheus-alertmanager", "prometheus-redis-exporter")
    lab.on(second, "systemctl", "disable", "--now", *units)
    for name in ("firewall", "alertmanager", "prometheus"):
        lab.play("role", "--extra-vars", f"role={name}")
    lab.play("verify")


def test_gone(lab: Lab) -> None:
    lab.run("scripts/lab", "down")


def test_elsewhere(lab: Lab) -> None:
    """Ports, folders, users and names that an inventory changes are those of the hosts too, from bare hosts on."""
    there = [host for host in lab.hosts if lab.exists(host)]
    assert not there, (
        f"{there} exist, and this verb needs bare hosts; next: make test-production STEPS='gone elsewhere'"
    )
    lab.run("scripts/lab", "up", *lab.hosts)
    lab.play("secrets")
    # the application of the lab is the sample, and it has no Grafana
    other = {name: value for name, (value, _) in FACTS.items() if name not in {"workers_app", "grafana_port"}}
    inventory = lab.changed_inventory("elsewhere", variables=other)
    lab.play("site", INVENTORY=inventory)
    lab.play("verify", INVENTORY=inventory)
    lab.unchanged("site", INVENTORY=inventory)
    lab.run("scripts/lab", "down")

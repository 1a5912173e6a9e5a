"""Each door of a host that is opened by hand turns verify red, by the name of that door."""

from __future__ import annotations

import re
import subprocess
import time
from typing import NamedTuple

import pytest

from .lab import INVENTORY, hosts, matching, on, verify

pytestmark = pytest.mark.lab

REDIS, SENTINEL = "holdfast-redis", "holdfast-sentinel"
FIREWALL = "systemctl restart holdfast-firewall holdfast-firewall-check.timer"

FLOWER = "/run/systemd/system/holdfast-flower.service.d"
FLOWER_AGAIN = (
    "systemctl daemon-reload; systemctl restart holdfast-flower;"
    " until python3 -c \"import socket; socket.create_connection(('localhost', 5555))\" 2>/dev/null; do sleep 1; done"
)


class Door(NamedTuple):
    """Something that must be closed."""

    group: str  # the first host of it is the one whose door is opened; `controller` is this machine
    opened: str
    closed: str
    finding: str  # a pattern; HOST stands for that host


DOORS = {
    "an environment file that everybody reads": Door(
        "workers", "chmod 0644 /etc/holdfast/app.env", "chmod 0640 /etc/holdfast/app.env",
        "HOST: owner and mode of /etc/holdfast/app.env",
    ),
    "an environment file of another user": Door(
        "workers", "chown nobody /etc/holdfast/login-worker.env", "chown root /etc/holdfast/login-worker.env",
        "HOST: owner and mode of /etc/holdfast/login-worker.env",
    ),
    "a password of another group": Door(
        "redis", "chgrp redis /etc/redis/admin.password", "chgrp root /etc/redis/admin.password",
        "HOST: owner and mode of /etc/redis/admin.password",
    ),
    "a secret file that is gone": Door(
        "sentinel", "mv /etc/redis/sentinel.password /root/", "mv /root/sentinel.password /etc/redis/",
        "HOST: /etc/redis/sentinel.password is there",
    ),
    "a key that everybody reads": Door(
        "all", "chmod 0644 /etc/holdfast/tls/client.key", "chmod 0640 /etc/holdfast/tls/client.key",
        "HOST: owner and mode of /etc/holdfast/tls/client.key",
    ),
    "a unit that others change": Door(
        "app", "chmod 0666 /etc/systemd/system/supervisor.service.d/holdfast.conf",
        "chmod 0644 /etc/systemd/system/supervisor.service.d/holdfast.conf",
        "HOST: owner and mode of /etc/systemd/system/supervisor.service.d/holdfast.conf",
    ),
    "supervisor's socket": Door(
        "app", "chmod 0777 /run/holdfast/supervisor.sock", "chmod 0700 /run/holdfast/supervisor.sock",
        "HOST: nobody opens supervisor's socket",
    ),
    "the firewall that is stopped": Door(
        "beat", "systemctl stop holdfast-firewall", FIREWALL, r"(?!HOST).*: HOST:\d+ from here",
    ),
    "one port of the firewall": Door(
        "beat",
        "systemctl stop holdfast-firewall-check.timer; nft insert rule inet holdfast input tcp dport 9538 accept",
        FIREWALL, "(?!HOST).*: HOST:9538 from here",
    ),
    "one port of the firewall over IPv6": Door(
        "rabbitmq",
        "systemctl stop holdfast-firewall-check.timer;"
        " nft insert rule inet holdfast input meta nfproto ipv6 tcp dport 5671 accept",
        FIREWALL, "(?!HOST).*: HOST:5671 over IPv6 from here",
    ),
    "a right more for a user of Redis": Door(
        "redis", f"{REDIS} acl setuser monitor '+config|get'", f"{REDIS} acl load",
        "HOST: users of Redis with other rules or passwords",
    ),
    "another password for a user of Redis": Door(
        "redis", f"{REDIS} acl setuser app '>opened'", f"{REDIS} acl load",
        "HOST: users of Redis with other rules or passwords",
    ),
    "another user of Redis": Door(
        "redis", f"{REDIS} acl setuser stranger on nopass '~*' +@all", f"{REDIS} acl load", "HOST: users of Redis",
    ),
    "Redis without a login": Door(
        "redis", f"{REDIS} config set protected-mode no; {REDIS} acl setuser default on nopass",
        f"{REDIS} acl load; {REDIS} config set protected-mode yes", "HOST: Redis without a login",
    ),
    "Redis without a client's certificate": Door(
        "redis", f"{REDIS} config set tls-auth-clients no", f"{REDIS} config set tls-auth-clients yes",
        "HOST: Redis without a certificate",
    ),
    "Redis with an old version of TLS": Door(
        "redis", f"{REDIS} config set tls-protocols 'TLSv1.1 TLSv1.2 TLSv1.3' tls-ciphers ALL:@SECLEVEL=0",
        f"{REDIS} config set tls-protocols '' tls-ciphers ''", "HOST: Redis speaks TLS 1.0 or 1.1",
    ),
    "Redis with weak ciphers": Door(
        "redis", f"{REDIS} config set tls-ciphers ALL:eNULL:@SECLEVEL=0", f"{REDIS} config set tls-ciphers ''",
        "HOST: Redis takes a weak cipher",
    ),
    "a right more for a user of Sentinel": Door(
        "sentinel", f"{SENTINEL} acl setuser app '+sentinel|failover'", f"{SENTINEL} acl load",
        "HOST: users of Sentinel with other rules or passwords",
    ),
    "RabbitMQ's guest": Door(
        "rabbitmq", "rabbitmqctl add_user guest guest", "rabbitmqctl delete_user guest",
        ".*: no user beside the designed ones, and no guest",
    ),
    "more permissions in RabbitMQ": Door(
        "rabbitmq", "rabbitmqctl set_permissions -p holdfast flower '.*' '.*' '.*'",
        "rabbitmqctl import_definitions /etc/rabbitmq/definitions/20-users.json",
        ".*: RabbitMQ users with other permissions",
    ),
    "another password in RabbitMQ": Door(
        "rabbitmq", "rabbitmqctl change_password monitor opened",
        "rabbitmqctl import_definitions /etc/rabbitmq/definitions/20-users.json",
        ".*: RabbitMQ users with another password or tag",
    ),
    "Flower's API without a login": Door(
        "flower",
        f"mkdir -p {FLOWER}; printf '[Service]\\nUnsetEnvironment=FLOWER_BASIC_AUTH\\n"
        f"Environment=FLOWER_UNAUTHENTICATED_API=true\\n' >{FLOWER}/door.conf; {FLOWER_AGAIN}",
        f"rm -r {FLOWER}; {FLOWER_AGAIN}", "HOST: Flower's API without a login, to read",
    ),
    "Prometheus without a login": Door(
        "prometheus", "cp -p /etc/prometheus/web.yml /root/; sed -i '/^basic_auth_users/,$d' /etc/prometheus/web.yml",
        "cp -p /root/web.yml /etc/prometheus/web.yml", r"HOST: https://.*:9090/ without a login",
    ),
    "the Redis exporter from outside": Door(
        "prometheus",
        "sed -i s/127.0.0.1:9121/0.0.0.0:9121/ /etc/default/prometheus-redis-exporter;"
        " systemctl restart prometheus-redis-exporter",
        "sed -i s/0.0.0.0:9121/127.0.0.1:9121/ /etc/default/prometheus-redis-exporter;"
        " systemctl restart prometheus-redis-exporter",
        "HOST: the Redis exporter from outside",
    ),
    "node_exporter without a certificate": Door(
        "all", "sed -i s/RequireAndVerifyClientCert/VerifyClientCertIfGiven/ /etc/prometheus/node-web.yml",
        "sed -i s/VerifyClientCertIfGiven/RequireAndVerifyClientCert/ /etc/prometheus/node-web.yml",
        "HOST: metrics of the host without a certificate",
    ),
    "a secret on a command line": Door(
        "redis",
        'systemd-run --quiet --unit holdfast-door sh -c "sleep 3600; : $(cat /etc/redis/admin.password)"',
        "systemctl stop holdfast-door", "HOST: secrets on a command line",
    ),
    "the authority's key on the controller": Door(
        "controller", f"chmod 0644 {INVENTORY}/tls/ca.key", f"chmod 0600 {INVENTORY}/tls/ca.key",
        "controller: owner and mode of .*/tls/ca.key",
    ),
    "a host that does not answer": Door(
        "beat", "systemctl stop ssh.socket ssh.service; pkill sshd-session || true", "systemctl start ssh.service",
        "controller: HOST answers the controller",
    ),
}  # fmt: skip


def at(host: str, script: str) -> None:
    """Run a script on a host, or on this machine."""
    if host == "controller":
        subprocess.run(["sh", "-ec", script], check=True)
    else:
        on(host, script)


def all_closed() -> None:
    """Wait until verify is green; what was opened or begun before may need some minutes to settle."""
    end = time.monotonic() + 300
    while found := verify():
        assert time.monotonic() < end, found


@pytest.fixture(scope="module", autouse=True)
def _closed() -> None:
    """What verify finds must come from the door."""
    all_closed()


@pytest.mark.parametrize("name", DOORS)
def test_an_open_door_turns_verify_red(name: str) -> None:
    door = DOORS[name]
    host = "controller" if door.group == "controller" else hosts(door.group)[0]
    try:
        at(host, door.opened)
        # what a host itself finds is looked for there alone
        found = verify(host if door.finding.startswith("HOST: ") else "all")
    finally:
        at(host, door.closed)
    assert matching(found, door.finding.replace("HOST", re.escape(host))), found


def test_verify_is_green_again_when_all_are_closed() -> None:
    all_closed()

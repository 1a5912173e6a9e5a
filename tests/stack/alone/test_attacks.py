"""What a stolen login of the application or of monitoring is tried for, on a Redis set with the rendered users."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from ..servers import container, free_ports, image
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack

NODE = """
exec redis-server --port $0 --bind 127.0.0.1 --save '' --appendonly yes --dir /tmp --aclfile /users.acl \\
  --masteruser replica --masterauth $1 $2
"""
SENTINEL = """
cat >/tmp/sentinel.conf <<END
port $0
bind 127.0.0.1
aclfile /users.acl
sentinel monitor results 127.0.0.1 $1 1
sentinel auth-user results sentinel
sentinel auth-pass results $2
sentinel down-after-milliseconds results 600000
END
exec redis-sentinel /tmp/sentinel.conf
"""
ELSEWHERE = "192.0.2.66"  # where nobody is
STOLEN = ("app", "worker", "beat", "monitor", "broker", "replica")
# What the rules and dashboards of monitoring read
METRICS = (
    "redis_up", "redis_aof_enabled", "redis_aof_last_write_status", "redis_aof_delayed_fsync", "redis_db_keys",
    "redis_connected_slave_lag_seconds", "redis_errors_total", "redis_instance_info", "redis_master_repl_offset",
    "redis_memory_max_bytes", "redis_memory_used_bytes",
)  # fmt: skip
SENTINEL_METRICS = (
    "redis_up", "redis_sentinel_master_ckquorum_status", "redis_sentinel_master_ok_slaves", "redis_sentinel_tilt",
)  # fmt: skip


@dataclass(frozen=True)
class Trio:
    """A primary, its replica and a Sentinel on ports of 127.0.0.1."""

    primary: int
    replica: int
    sentinel: int
    folder: Path

    def password(self, name: str) -> str:
        return (self.folder / f"passwords/{name}_PASSWORD").read_text(encoding="utf-8").strip()

    def login(self, user: str, port: int | None = None) -> Redis:
        """Return a client of the primary, or of another port, with the login of a user."""
        password = self.password(f"REDIS_{user.upper()}")
        return Redis(port=port or self.primary, username=user, password=password, decode_responses=True)

    def known_primary(self) -> tuple[str, int]:
        """Return what Sentinel answers to clients."""
        client = self.login("monitor", self.sentinel)
        found: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "results")
        return str(found[0]), int(found[1])

    def forged(self) -> tuple[str, str]:
        """Return channel and text by which a Sentinel would tell of a later failover, to somewhere else."""
        epoch = 1000
        words = ("127.0.0.1", 1, "f" * 40, epoch, "results", ELSEWHERE, 6379, epoch)
        return "__sentinel__:hello", ",".join(map(str, words))


@pytest.fixture(scope="module")
def trio(store: str, filled: Path) -> Iterator[Trio]:
    ports = free_ports(3)
    trio = Trio(ports[0], ports[1], ports[2], filled)
    host = ("--network", "host", "--entrypoint", "sh")
    data = (*host, "--volume", f"{filled}/redis/users.acl:/users.acl:ro", store, "-c", NODE)
    watch = (*host, "--volume", f"{filled}/sentinel/users.acl:/users.acl:ro", store, "-c", SENTINEL)
    primary, replica, sentinel = map(str, ports)
    key = trio.password("REDIS_REPLICA")
    with (
        container(*data, primary, key, ""),
        container(*data, replica, key, f"--replicaof 127.0.0.1 {primary}"),
        container(*watch, sentinel, primary, trio.password("REDIS_SENTINEL")),
    ):
        wait_until(lambda: _in_step(trio), "Sentinel sees the replica", 120)
        trio.login("admin").set("celery-task-meta-secret", "kept")
        yield trio


def _in_step(trio: Trio) -> bool:
    try:
        state: Any = trio.login("monitor", trio.sentinel).sentinel_master("results")
    except Exception:  # noqa: BLE001 - not yet
        return False
    return int(state["num-slaves"]) == 1


ATTACKS = {
    "the primary's password": "CONFIG GET masterauth",
    "a copy of everything": "SYNC",
    "everything gone": "FLUSHALL",
    "a handover": "FAILOVER",
    "another primary": f"REPLICAOF {ELSEWHERE} 6379",
    "what there is": "KEYS *",
    "what there is, step by step": "SCAN 0",
    "every result that comes": "PSUBSCRIBE celery-task-meta-*",
    "every command of the others": "MONITOR",
    "every client stopped": "CLIENT PAUSE 60000",
    "slow commands": "SLOWLOG GET 10",
}


@pytest.mark.parametrize("user", STOLEN)
def test_a_stolen_login_gets_nothing_of_this(trio: Trio, user: str) -> None:
    got = []
    for what, command in ATTACKS.items():
        with trio.login(user) as thief:
            try:
                thief.execute_command(*command.split())
                got.append(what)
            except NoPermissionError:
                pass
    assert got == []
    with trio.login("admin") as admin:
        assert admin.get("celery-task-meta-secret") == "kept"
        assert admin.role()[0] == "master"


@pytest.mark.parametrize("user", [user for user in STOLEN if user != "replica"])
def test_results_are_of_the_application_alone(trio: Trio, user: str) -> None:
    with trio.login(user) as thief:
        if user in {"app", "worker"}:
            assert thief.get("celery-task-meta-secret") == "kept"  # who knows the id of a result may read it
        else:
            with pytest.raises(NoPermissionError):
                thief.get("celery-task-meta-secret")


def test_only_a_sentinel_can_announce_another_primary(trio: Trio) -> None:
    for user in (*STOLEN, "admin"):
        with trio.login(user) as thief, pytest.raises(NoPermissionError):
            thief.publish(*trio.forged())
    assert trio.known_primary() == ("127.0.0.1", trio.primary)


# -- the exporter, which anybody who reaches it can send somewhere


@contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """Play a Redis that says OK to everything; gives its port and what it was told."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
                with client:
                    client.settimeout(5)
                    while said := client.recv(4096):
                        heard.append(said)
                        client.sendall(b"+OK\r\n")
            except OSError:
                if server.fileno() < 0:
                    return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1], heard
    finally:
        server.close()


@contextmanager
def exporter(*options: str) -> Iterator[str]:
    """Run redis_exporter and give the address of its requests for a target."""
    [port] = free_ports(1)
    name = image("oliver006/redis_exporter")
    volumes = [option for option in options if option.startswith("--volume=")]
    rest = [option for option in options if not option.startswith("--volume=")]
    with container("--network", "host", *volumes, name, f"--web.listen-address=127.0.0.1:{port}", *rest):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: urlopen(url, timeout=5).status == 200, "the exporter answers", 60)
        yield f"{url}/scrape?target=redis://127.0.0.1:"


def ask(url: str) -> str:
    """Return the metrics of a target, or what the exporter says instead."""
    try:
        with urlopen(url, timeout=60) as answer:  # noqa: S310 - always http
            return str(answer.read().decode())
    except HTTPError as error:
        return error.read().decode()


def test_the_exporter_gives_its_password_to_its_own_servers_alone(trio: Trio, tmp_path: Path) -> None:
    password = trio.password("REDIS_MONITOR")
    file = tmp_path / "passwords.json"
    targets = {f"redis://monitor@127.0.0.1:{port}": password for port in (trio.primary, trio.sentinel)}
    file.write_text(json.dumps(targets), encoding="utf-8")
    options = (f"--volume={tmp_path}:/given:ro", "--redis.user=monitor", "--config-command=-")
    tmp_path.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    tmp_path.parent.parent.chmod(0o755)
    with exporter(*options, "--redis.password-file=/given/passwords.json") as scrape:
        for port, wanted in ((trio.primary, METRICS), (trio.sentinel, SENTINEL_METRICS)):
            found = ask(f"{scrape}{port}")
            assert "redis_up 1" in found
            assert [name for name in wanted if f"\n{name}" not in found] == []
            assert "masterauth" not in found
        with listening() as (port, heard):
            ask(f"{scrape}{port}")
        assert heard
        assert password.encode() not in b"".join(heard)


def test_an_exporter_with_one_password_gives_it_to_anybody(trio: Trio) -> None:
    """The control: the password is heard where there is no list of servers."""
    password = trio.password("REDIS_MONITOR")
    with (
        exporter("--redis.user=monitor", f"--redis.password={password}") as scrape,
        listening() as (port, heard),
    ):
        ask(f"{scrape}{port}")
    assert password.encode() in b"".join(heard)


# -- what ends the set


def test_a_forged_hello_moves_the_primary_when_a_login_may_publish_it(trio: Trio) -> None:
    """The control, and the last test here: it ends the set. Before, the application's login had all channels."""
    trio.login("admin").execute_command("ACL", "SETUSER", "worker", "allchannels")
    assert trio.login("worker").publish(*trio.forged()) > 0
    wait_until(lambda: trio.known_primary() == (ELSEWHERE, 6379), "Sentinel believes it", 60)

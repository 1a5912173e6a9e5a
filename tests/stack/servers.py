"""Servers of a test's own: a broker, a Redis primary with its replica and one Sentinel, to be set up in odd ways."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from base64 import b64encode
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.request import Request, urlopen

import pytest
from amqp.exceptions import AMQPError
from kombu import Connection, Exchange
from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues
from redis import Redis
from redis.exceptions import RedisError

from holdfast import routing

from .rig import VHOST, Rig
from .stack import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGIN = "scratch"
TICK = 500  # milliseconds between two counts of a queue; by default 5000, more than Rig.drained waits
RABBITMQ = f"""
default_vhost = {VHOST}
default_user = {LOGIN}
default_pass = {LOGIN}
loopback_users = none
"""
# AOF as on the stack: a result counts when it is on the disks. The replica follows the first port.
REDIS = """
redis-server --port $1 --bind 127.0.0.1 --appendonly yes --appendfsync always --save '' $2
"""
# No test here needs a failover, and one that a busy disk brings about would leave a primary that takes no writes.
SENTINEL = """
dir=$(mktemp -d); cat > "$dir/sentinel.conf" <<END
port $1
bind 127.0.0.1
sentinel monitor results 127.0.0.1 $2 1
sentinel down-after-milliseconds results 600000
END
exec redis-sentinel "$dir/sentinel.conf"
"""


def rules(user: str) -> list[str]:
    """Return what the rendered users of Redis let a user do, for ``ACL SETUSER``."""
    lines = (ROOT / "compose/config/secret/redis/users.acl").read_text(encoding="utf-8").splitlines()
    found = next(line for line in lines if line.startswith(f"user {user} "))
    return re.findall(r"\([^)]*\)|\S+", re.sub(r"^user \S+ on #\S+ ", "", found))


def image(name: str) -> str:
    """Return the image of the stack whose name begins like this."""
    files = "".join((ROOT / f"compose/{file}.yaml").read_text() for file in ("compose", "results-valkey"))
    found = re.search(rf"image: (?:\$\{{\w+:-)?({name}:[^\s}}]+)", files)
    assert found, name
    return found[1]


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def answers(client: Redis) -> bool:
    """Tell whether a Redis or a Sentinel that has just been started takes commands."""
    try:
        return bool(client.ping())
    except RedisError:
        return False


@contextmanager
def container(*arguments: str) -> Iterator[str]:
    """Run a container until the end of the block and give its id."""
    command = ["docker", "run", "--detach", "--label", "holdfast.test=true", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    try:
        yield done.stdout.strip()
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", done.stdout.strip()], capture_output=True, check=False)


def wait_for_broker(url: str) -> None:
    """Wait until a broker that has just been started takes connections.

    Asked from outside: ``rabbitmq-diagnostics`` in the container may write the node's cookie before the node does, as
    another user, and then the node does not start.
    """

    def connects() -> bool:
        try:
            with Connection(url, connect_timeout=5) as connection:
                connection.connect()
        except AMQPError:
            return False
        return True

    wait_until(connects, "the broker takes connections", 180)


def container_of(port: int) -> str:
    """Return the id of the container that publishes a port of 127.0.0.1."""
    find = ["docker", "ps", "--quiet", "--filter", f"publish={port}"]
    return subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def paused(port: int) -> Iterator[None]:
    """Freeze the container that publishes a port of 127.0.0.1 until the end of the block."""
    found = container_of(port)
    subprocess.run(["docker", "pause", found], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "unpause", found], check=True, capture_output=True)


@dataclass(frozen=True)
class Servers:
    """Where they listen on 127.0.0.1."""

    broker: int
    management: int
    primary: int
    replica: int
    sentinel: int

    @property
    def broker_url(self) -> str:
        return f"amqp://{LOGIN}:{LOGIN}@127.0.0.1:{self.broker}/{VHOST}"

    def redis_url(self, user: str, database: int = 0) -> str:
        """Return the URL of the Redis set for a user who has the rights that the templates give."""
        return f"sentinel://{user}:{LOGIN}@127.0.0.1:{self.sentinel}/{database}"

    @property
    def redis(self) -> Redis:
        """A client of the primary that may do everything."""
        return Redis(port=self.primary, decode_responses=True, socket_timeout=10)

    @contextmanager
    def configured(self, **values: str) -> Iterator[None]:
        """Set values of the primary's configuration until the end of the block; names with _ for -."""
        names = {name: name.replace("_", "-") for name in values}
        before: Any = {name: self.redis.config_get(names[name])[names[name]] for name in values}
        try:
            for name, value in values.items():
                self.redis.config_set(names[name], value)
            yield
        finally:
            for name, value in before.items():
                self.redis.config_set(names[name], value)


@dataclass
class OwnRig(Rig):
    """A scratch queue on servers of the test's own, with the same handles as one on the stack."""

    servers: Servers | None = None

    def api(self, method: str, path: str, body: object = None, node: str = "") -> Any:  # noqa: ARG002 - there is one
        assert self.servers
        login = b64encode(f"{LOGIN}:{LOGIN}".encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.servers.management}/api/{path}"
        headers = {"Authorization": f"Basic {login}"}
        with urlopen(Request(url, data, headers, method=method), timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def depth(self, queue: str | None = None) -> tuple[int, int]:
        """Return how many messages are ready, and how many were unacknowledged at most :data:`TICK` ago."""
        assert self.servers
        name = queue or self.queue
        with Connection(self.servers.broker_url) as connection:
            ready = connection.default_channel.queue_declare(name, passive=True).message_count
        totals = self.api("GET", f"queues/{VHOST}/{name}?disable_stats=true&enable_queue_totals=true")
        return ready, int(totals["messages_unacknowledged"])

    def servers_environment(self) -> dict[str, str]:
        assert self.servers
        return {
            "HOLDFAST_BROKER_URL": self.servers.broker_url,
            "HOLDFAST_RESULT_URL": self.servers.redis_url("worker"),
            "HOLDFAST_SCHEDULE_URL": self.servers.redis_url("beat"),
            "HOLDFAST_SENTINEL_MASTER": "results",
            "SCRATCH_OTHER_SENTINELS": "0",
        }

    @property
    def prefix(self) -> str:
        return ""  # as applications have it

    def call(self, code: str, seconds: float = 240, **extra: str) -> str:
        """Run Python code with the login of whoever publishes and waits."""
        assert self.servers
        return super().call(code, seconds, **{"HOLDFAST_RESULT_URL": self.servers.redis_url("app"), **extra})

    def forget_refusals(self) -> None:
        """Forget what Redis has refused: what a test has provoked."""
        assert self.servers
        self.servers.redis.acl_log_reset()

    def nothing_refused(self) -> None:
        """Fail when Redis has refused a command since the last time: a login that lacks a right it needs."""
        assert self.servers
        for port in (self.servers.primary, self.servers.replica):
            with Redis(port=port, decode_responses=True) as client:
                refused: Any = client.acl_log()
                client.acl_log_reset()
            found = [f"{one['username']}: {one['reason']} {one['object']}" for one in refused]
            assert not found, f"Redis refused {found}: a login lacks a right that it needs"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers that no other process uses."""
    folder = tmp_path_factory.mktemp("servers")
    folder.parent.chmod(0o755)
    with running(folder) as servers:
        yield servers


@contextmanager
def running(folder: Path) -> Iterator[Servers]:
    """Run servers until the end of the block; their configuration lies in a folder that other users may enter."""
    conf = folder / "rabbitmq.conf"
    conf.write_text(RABBITMQ, encoding="utf-8")
    conf.chmod(0o644)  # the broker runs as another user
    folder.chmod(0o755)
    ports = free_ports(5)
    broker, management, primary, replica, sentinel = map(str, ports)
    shell = ("--network", "host", "--entrypoint", "sh", image("redis"), "-c")
    with ExitStack() as stack:
        publish = ("--publish", f"127.0.0.1:{broker}:5672", "--publish", f"127.0.0.1:{management}:15672")
        mount = ("--volume", f"{conf}:/etc/rabbitmq/rabbitmq.conf:ro")
        tick = ("--env", f"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-rabbit quorum_tick_interval {TICK}")
        stack.enter_context(container(*publish, *mount, *tick, image("rabbitmq")))
        stack.enter_context(container(*shell, REDIS, "sh", primary, ""))
        stack.enter_context(container(*shell, REDIS, "sh", replica, f"--replicaof 127.0.0.1 {primary}"))
        stack.enter_context(container(*shell, SENTINEL, "sh", sentinel, primary))
        servers = Servers(*ports)
        _prepare(servers)
        yield servers


def _prepare(servers: Servers) -> None:
    """Wait for the servers, and give the broker the exchanges that its definitions give the stack's."""
    wait_for_broker(servers.broker_url)  # its port for AMQP opens last
    with Connection(servers.broker_url) as connection:
        Exchange(routing.EXCHANGE, "topic")(connection.default_channel).declare()
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")

    def replicated() -> bool:
        with Redis(port=servers.sentinel, decode_responses=True) as sentinel:
            return answers(sentinel) and len(sentinel.sentinel_slaves("results")) == 1

    wait_until(replicated, "Sentinel sees the replica", 120)
    for port in (servers.primary, servers.replica):
        with Redis(port=port) as client:
            for user in ("app", "worker", "beat", "broker"):
                client.execute_command("ACL", "SETUSER", user, "reset", "on", f">{LOGIN}", *rules(user))


@pytest.fixture
def own_rig(servers: Servers, tmp_path: Path) -> Iterator[OwnRig]:
    """A scratch queue on servers of the test's own; what a test left in Redis is gone at its end."""
    rig = OwnRig(cast("Any", None), tmp_path, servers=servers)
    rig.declare()
    try:
        yield rig
        rig.nothing_refused()
    finally:
        rig.remove()
        servers.redis.flushall()

"""Questions to the running stack: who leads, what waits, what is wrong, which settings hold."""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import httpx
import redis

from drill.targets.base import Node, Target, TargetError
from holdfast import tls
from holdfast.environment import split_urls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUEUES = ("default", "critical")
PARKING = ("dead", "unrouted")  # where messages may stay
PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")  # ends of the keys that kombu makes of one queue in Redis
PRIMARY = "results"
STACK = "holdfast"  # virtual host of the stack
POLL = 0.5  # seconds between two looks


@dataclass(frozen=True)
class Settings:
    """Live values that bounds are made of; times are seconds.

    Attributes:
        poll: interval of RabbitMQ's failure detector.
        disconnected: how long messages of a consumer whose node is gone stay with it.
        heartbeat: AMQP heartbeat of workers.
        attempt: how long a publisher waits for one node.
        deadline: how long a publish may take.
        connect: limit of opening a broker connection.
        sentinel: silence after which Sentinel takes a node for down.
        redis_timeout: how long a client waits for Redis.
        delivery_limit: deliveries after which a message is dead.
    """

    poll: float
    disconnected: float
    heartbeat: float
    attempt: float
    deadline: float
    connect: float
    sentinel: float
    redis_timeout: float
    delivery_limit: int


class Publishers(Protocol):
    """The publisher processes of the run that is under way."""

    def names(self) -> list[str]:
        """Return the names of those that run."""

    def replace(self, name: str) -> str:
        """Kill one as a crash would, start another, and return its name."""

    def rate(self) -> float:
        """Return the tasks per second that all of them are to publish."""

    def burst(self, times: float, seconds: float) -> list[str]:
        """Let others publish ``times`` as much beside them for some seconds, and return their names."""

    def acknowledged(self, names: Sequence[str]) -> int:
        """Return how many tasks of these publishers were acknowledged, as last heard."""


class Stack:
    """Looks at a target; every answer comes from whichever node still gives it.

    Args:
        target: where the stack runs.
        password: returns a password by its name.
        app: the Celery application whose settings the clients use.

    Attributes:
        vhost: virtual host of the tasks.
        rules: virtual host whose policies the bounds are made of.
    """

    def __init__(self, target: Target, password: Callable[[str], str], app: Any) -> None:
        self.target, self.app, self.password = target, app, password
        self.vhost: str = app.connection_for_write().virtual_host
        self.rules = self.vhost
        self.publishers: Publishers | None = None
        self.parking: tuple[str, ...] = PARKING
        self._tls = tls.read(HOLDFAST_BROKER_URL=app.conf.broker_url)

    def tier(self, name: str) -> list[Node]:
        """Return the nodes of a tier, by name."""
        return [node for node in self.target.nodes.values() if node.tier == name]

    def node(self, name: str) -> Node:
        """Return a node by its name."""
        return self.target.nodes[name]

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """What HTTP clients check servers by, made once: loading authorities takes longer than a request."""
        context = ssl.create_default_context(cafile=self._tls.authority if self._tls else None)
        if self._tls and self._tls.certificate:
            context.load_cert_chain(self._tls.certificate, self._tls.key)
        return context

    # RabbitMQ

    @property
    def operator_url(self) -> str | None:
        """URLs of the brokers with the login that reads dead letters; None where it is the application's."""
        urls = self.target.logins().operator.get("HOLDFAST_BROKER_URL")
        return ";".join(split_urls(urls)) if urls else None

    @property
    def broker_port(self) -> int:
        """Port on which the brokers take clients."""
        return urlsplit(split_urls(self.app.conf.broker_url)[0]).port or 5672

    def web(self, node: Node, user: str, password: str, timeout: float = 10) -> httpx.Client:
        """Return a client of a broker's management API.

        Args:
            node: the broker.
            user: who asks.
            password: name of the user's password.
            timeout: seconds.
        """
        origin = f"https://{node.address}:15671" if self._tls else f"http://{node.address}:15672"
        login = (user, self.password(password))
        return httpx.Client(base_url=f"{origin}/api/", auth=login, verify=self._context, timeout=timeout)

    def management(self, path: str, node: Node | None = None) -> Any:
        """Return an answer of the management API, from the given or else the first node that gives one.

        Raises:
            TargetError: no node answers.
        """
        problems = []
        for candidate in [node] if node else self.tier("rabbit"):
            try:
                with self.web(candidate, "monitor", "RABBITMQ_MONITOR_PASSWORD", timeout=3) as api:
                    answer = api.get(path)
                if answer.status_code == 200:
                    return answer.json()
                problems.append(f"{candidate.name}: HTTP {answer.status_code}")
            except httpx.HTTPError as error:
                problems.append(f"{candidate.name}: {type(error).__name__}")
        raise TargetError(f"RabbitMQ's management API does not answer {path}: {', '.join(problems)}")

    def queues(self) -> dict[str, dict[str, Any]]:
        """Return all queues of the vhost by name, with their current totals."""
        found = self.management(f"queues/{self.vhost}?disable_stats=true&enable_queue_totals=true")
        return {queue["name"]: queue for queue in found}

    def depth(self) -> dict[str, int]:
        """Return how many messages wait, are with a worker, are delayed, dead and unrouted."""
        queues = self.queues()
        delayed = [queue for name, queue in queues.items() if name.startswith("celery_delayed_")]
        return {
            "ready": sum(queues[name].get("messages_ready", 0) for name in QUEUES),
            "unacked": sum(queues[name].get("messages_unacknowledged", 0) for name in QUEUES),
            "delayed": sum(queue.get("messages", 0) for queue in delayed),
            **{name: queues[name].get("messages", 0) for name in PARKING},
        }

    def leader(self, queue: str) -> Node:
        """Return the node that leads a queue, or holds one that is on one node only."""
        found = self.management(f"queues/{self.vhost}/{queue}")
        host = str(found.get("leader") or found["node"]).partition("@")[2]
        return next(node for node in self.tier("rabbit") if node.host == host)

    def ctl(self, node: Node, *arguments: str, timeout: float = 60) -> str:
        """Run ``rabbitmqctl`` on a node."""
        return self.target.run(node, "rabbitmqctl", "--quiet", *arguments, timeout=timeout)

    def alarms(self) -> list[str]:
        """Return the alarms of all nodes, as ``node: resource``."""
        found = []
        for node in self.management("nodes"):
            name = node["name"].partition("@")[2]
            found += [f"{name}: {kind}" for kind in ("mem", "disk_free") if node.get(f"{kind}_alarm")]
        return found

    # Redis

    def redis(self, node: Node, user: str = "monitor", database: int = 0) -> redis.Redis:
        """Return a connection to a Redis or Sentinel node."""
        return redis.Redis(
            host=node.address,
            port=26379 if node.tier == "sentinel" else 6379,
            username=user,
            password=self.password(f"REDIS_{user.upper()}_PASSWORD"),
            db=database,
            socket_timeout=2,
            socket_connect_timeout=2,
            decode_responses=True,
            **({"ssl": True, **self._tls.redis()} if self._tls else {}),
        )

    def roles(self) -> dict[str, dict[str, Any]]:
        """Return the replication state of each Redis node that answers."""
        found: dict[str, dict[str, Any]] = {}
        for node in self.tier("redis"):
            with suppress(redis.RedisError), self.redis(node) as client:
                found[node.name] = client.info("replication")
        return found

    def sentinels(self) -> dict[str, dict[str, Any]]:
        """Return what each Sentinel that answers says of the primary."""
        found: dict[str, dict[str, Any]] = {}
        for node in self.tier("sentinel"):
            with suppress(redis.RedisError), self.redis(node) as client:
                answer: Any = client.execute_command("SENTINEL", "MASTER", PRIMARY)
                found[node.name] = (
                    answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
                )
        return found

    def primary(self) -> Node:
        """Return the Redis node that most Sentinels call the primary.

        Raises:
            TargetError: none of them answers.
        """
        addresses = [str(state["ip"]) for state in self.sentinels().values()]
        if not addresses:
            raise TargetError("No Sentinel answers.")
        address = max(set(addresses), key=addresses.count)
        return next(node for node in self.tier("redis") if node.address == address)

    def epoch(self) -> int:
        """Return the number of the last failover."""
        return max((int(state["config-epoch"]) for state in self.sentinels().values()), default=0)

    # Prometheus

    def prometheus(self) -> httpx.Client:
        """Return a client of the target's Prometheus.

        Raises:
            TargetError: it has none.
        """
        found = self.tier("prometheus")
        if not found:
            raise TargetError("This target has no Prometheus. Next: run without --alerts")
        login = ("admin", self.password("PROMETHEUS_PASSWORD"))
        origin = f"{'https' if self._tls else 'http'}://{found[0].address}:9090"
        return httpx.Client(base_url=origin, auth=login, verify=self._context, timeout=10)

    # The whole

    @cached_property
    def settings(self) -> Settings:
        """The live settings, read once: from the broker, Sentinel and the application."""
        node = self.tier("rabbit")[0]
        poll = self.ctl(node, "eval", "application:get_env(aten, poll_interval, 5000).")
        policies = {p["name"]: p["definition"] for p in self.management(f"policies/{self.rules}")}
        tasks = policies.get("tasks", {})
        conf = self.app.conf
        sentinel = next(iter(self.sentinels().values()))
        return Settings(
            poll=int(poll) / 1000,
            disconnected=tasks.get("consumer-disconnected-timeout", 60_000) / 1000,
            heartbeat=conf.broker_heartbeat,
            attempt=conf.get("holdfast_publish_attempt") or 5.0,
            deadline=conf.get("holdfast_publish_deadline") or 20.0,
            connect=conf.broker_connection_timeout,
            sentinel=int(sentinel["down-after-milliseconds"]) / 1000,
            redis_timeout=conf.redis_socket_timeout,
            delivery_limit=tasks.get("delivery-limit", 20),
        )

    def versions(self) -> dict[str, str]:
        """Return the versions of the servers."""
        overview = self.management("overview")
        with self.redis(self.tier("redis")[0]) as client:
            server: Any = client.info("server")
        valkey = server.get("valkey_version")
        return {
            "RabbitMQ": overview["rabbitmq_version"],
            "Erlang": overview["erlang_version"],
            # Valkey says there which Redis it can stand in for
            **({"Valkey": valkey} if valkey else {"Redis": str(server["redis_version"])}),
        }

    def complaints(self) -> list[str]:
        """Return what is not as it should be, in words; empty for a healthy stack."""
        found = [f"{name} is {state}" for name, state in self.target.states().items() if state != "running"]
        if found:
            return found  # the rest would only say the same again, slowly
        checks: tuple[Callable[[], list[str]], ...] = (self._broker_complaints, self._redis_complaints)
        for check in checks:
            try:
                found += check()
            except (TargetError, redis.RedisError, KeyError) as error:
                found.append(str(error))
        return found

    def wait(self, condition: Callable[[], Any], timeout: float) -> Any:
        """Return the first true answer of ``condition``, or its last one after ``timeout`` seconds.

        A target or server that does not answer yet counts as false.
        """
        deadline = time.monotonic() + timeout
        while True:
            answer: Any = None
            with suppress(TargetError, redis.RedisError, httpx.HTTPError, KeyError, StopIteration):
                answer = condition()
            if answer or time.monotonic() > deadline:
                return answer
            time.sleep(POLL)

    def wait_healthy(self, timeout: float) -> list[str]:
        """Wait until nothing is to complain about; return what still is after ``timeout`` seconds."""
        last: list[str] = ["nothing was looked at"]

        def healthy() -> bool:
            last[:] = self.complaints()
            return not last

        self.wait(healthy, timeout)
        return last

    def _broker_complaints(self) -> list[str]:
        nodes = self.tier("rabbit")
        running = [node for node in self.management("nodes") if node.get("running")]
        found = [] if len(running) == len(nodes) else [f"{len(running)} of {len(nodes)} brokers are in the cluster"]
        found += [f"alarm on {alarm}" for alarm in self.alarms()]
        workers = len(self.tier("worker"))
        for name in (*QUEUES, *PARKING):
            queue = self.management(f"queues/{self.vhost}/{name}")
            if queue["type"] == "quorum" and len(queue.get("online", [])) < len(nodes):
                found.append(f"queue {name} has {len(queue.get('online', []))} of {len(nodes)} members online")
            if not queue.get("leader") and not queue.get("node"):
                found.append(f"queue {name} has no leader")
            if name in QUEUES and len(queue.get("consumer_details", [])) < workers:
                found.append(f"queue {name} has {len(queue.get('consumer_details', []))} of {workers} consumers")
        return found

    def _redis_complaints(self) -> list[str]:
        roles, primary = self.roles(), self.primary()
        found = []
        if len(roles) < len(self.tier("redis")):
            found.append(f"{len(roles)} of {len(self.tier('redis'))} Redis nodes answer")
        masters = sorted(name for name, role in roles.items() if role["role"] == "master")
        if masters != [primary.name]:
            found.append(f"Redis primaries are {masters}, Sentinel says {primary.name}")
        for name, role in roles.items():
            if role["role"] == "slave" and role.get("master_link_status") != "up":
                found.append(f"{name} does not follow the primary")
        sentinels = self.sentinels()
        if {state["ip"] for state in sentinels.values()} != {primary.address} or len(sentinels) < 3:
            found.append("the Sentinels do not agree or do not all answer")
        found += [f"{name} sees the primary as {s['flags']}" for name, s in sentinels.items() if s["flags"] != "master"]
        return found


class RedisBrokerStack(Stack):
    """The same where Redis carries the tasks, too: for the comparison, and only for faults that need no RabbitMQ.

    Args:
        target: where the stack runs.
        password: returns a password by its name.
        app: an application whose broker is Redis behind Sentinel.
    """

    def __init__(self, target: Target, password: Callable[[str], str], app: Any) -> None:
        super().__init__(target, password, app)
        self._database = int(self.vhost.strip("/"))
        self.vhost = self.rules = STACK  # no task goes there
        self.parking = ()

    def depth(self) -> dict[str, int]:
        """Return how many messages wait and are with a worker; there is no queue for those that went wrong."""
        with self.redis(self.primary(), "broker", self._database) as client:
            ready = sum(int(client.llen(f"{queue}{end}")) for queue in QUEUES for end in PRIORITIES)
            return {"ready": ready, "unacked": int(client.hlen("unacked")), "delayed": 0}

    def _broker_complaints(self) -> list[str]:
        return []

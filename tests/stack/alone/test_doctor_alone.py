"""The doctor on servers of its own that are set up badly: a RabbitMQ with harmful policies, a Redis, a Sentinel."""

from __future__ import annotations

import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from celery_doctor import State, live
from celery_doctor.subject import Subject

from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.stack
TOPIC = Exchange("tasks", type="topic")
NAMES = ("good", "ttl", "endless", "nowhere", "missing", "back", "loop")
POLICIES = {
    "good": '{"dead-letter-exchange": "dlx", "dead-letter-strategy": "at-least-once", "overflow": "reject-publish"}',
    "ttl": '{"dead-letter-exchange": "dlx", "message-ttl": 60000, "expires": 3600000}',
    "endless": '{"dead-letter-exchange": "dlx", "delivery-limit": -1}',
    "nowhere": '{"dead-letter-exchange": "unbound"}',
    "missing": '{"dead-letter-exchange": "not-there"}',
    "back": '{"dead-letter-exchange": "tasks"}',
    "loop": '{"dead-letter-exchange": "", "dead-letter-routing-key": "wait"}',
    "wait": '{"dead-letter-exchange": "tasks", "dead-letter-routing-key": "loop", "message-ttl": 1000}',
}
SENTINEL = """
cat > /tmp/sentinel.conf <<END
port 26379
sentinel monitor results 127.0.0.1 6379 1
sentinel down-after-milliseconds results 60000
END
exec redis-server /tmp/sentinel.conf --sentinel
"""


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, text=True, capture_output=True).stdout.strip()


class Server:
    """A container of the test's own, reached by its address."""

    def __init__(self, image: str, *command: str) -> None:
        self.name = f"holdfast-doctor-{uuid.uuid4().hex[:8]}"
        docker("run", "--detach", "--name", self.name, image, *command)
        self.address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", self.name)

    def run(self, *command: str) -> str:
        return docker("exec", self.name, *command)

    def answers(self, *command: str) -> bool:
        return subprocess.run(["docker", "exec", self.name, *command], check=False, capture_output=True).returncode == 0

    def stop(self) -> None:
        docker("rm", "--force", "--volumes", self.name)


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Server]:
    """A RabbitMQ of one node, with a user of its own and the queues of NAMES, each under a policy of its name."""
    server = Server("rabbitmq:4.3.6-management")
    try:
        # not asked by a command: one that comes before the server makes a cookie that the server may not read
        wait_until(lambda: "Time to start RabbitMQ" in docker("logs", server.name), "RabbitMQ runs", deadline=180)
        server.run("rabbitmqctl", "add_user", "doctor", "doctor")
        server.run("rabbitmqctl", "set_permissions", "doctor", ".*", ".*", ".*")
        server.run("rabbitmqctl", "set_user_tags", "doctor", "administrator")
        wait_until(lambda: server.answers("rabbitmq-diagnostics", "check_port_listener", "15672"), "its page", 120)
        declare(server)
        for name, definition in POLICIES.items():
            server.run("rabbitmqctl", "set_policy", name, f"^{name}$", definition)
        yield server
    finally:
        server.stop()


def application(server: Server, *, user: str = "doctor") -> Celery:
    app = Celery("patient", broker=f"amqp://{user}:doctor@{server.address}//", set_as_current=False)
    arguments = {"x-queue-type": "quorum"}
    app.conf.task_queues = [Queue(name, TOPIC, routing_key=name, queue_arguments=arguments) for name in NAMES]
    app.conf.task_default_queue = "good"
    return app


def declare(server: Server) -> None:
    with application(server).connection_for_write() as connection:
        channel = connection.default_channel
        for queue in application(server).conf.task_queues:
            queue(channel).declare()
        for exchange in ("dlx", "unbound"):
            Exchange(exchange, type="fanout")(channel).declare()
        Queue("dead", Exchange("dlx", type="fanout"), queue_arguments={"x-queue-type": "quorum"})(channel).declare()
        Queue("wait", queue_arguments={"x-queue-type": "quorum"})(channel).declare()


def findings(app: Celery, url: str | None, store: str | None = None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in live.examine(Subject(app), url, store):
        text = one.found if one.state is State.FOUND else one.state.value
        found.setdefault(one.rule.number, []).append(text)
    return found


def test_policies_that_lose_tasks(rabbit: Server) -> None:
    page = f"http://doctor:doctor@{rabbit.address}:15672"

    def seen() -> dict[str, list[str]]:
        return findings(application(rabbit), page)

    wait_until(lambda: len(seen().get("HF823", [])) == 4, "the policies are in force", deadline=120)
    found = seen()
    assert sorted(found["HF823"]) == [
        "queue back: its dead letters come back to it from tasks",
        "queue loop: its dead letters come back to it through wait",
        "queue missing: its dead-letter-exchange not-there is not there",
        "queue nowhere: no queue takes its dead letters from unbound",
    ]
    assert sorted(found["HF821"]) == ["queue ttl has expires 3600000 ms", "queue ttl has message-ttl 60000 ms"]
    assert found["HF822"] == ["queue endless has delivery-limit -1"]
    assert found["HF820"] == ["1 of 1 nodes run"]
    assert not {"HF801", "HF802", "HF811", "HF813", "HF824"} & found.keys()


def test_one_answer_that_does_not_come_hides_no_other(rabbit: Server) -> None:
    app = application(rabbit)
    app.conf.task_queues += [Queue("absent", Exchange("absent", type="topic"), routing_key="absent")]
    found = findings(app, f"http://doctor:wrong@{rabbit.address}:15672")
    assert found["HF802"] == ["queue absent is not there"]
    assert found["HF811"] == found["HF818"] == ["could not judge"]
    right = findings(app, f"http://doctor:doctor@{rabbit.address}:15672")
    assert right["HF824"] == ["exchange absent is not there"]
    assert len(right["HF823"]) == 4
    refused = findings(application(rabbit, user="nobody"), f"http://doctor:doctor@{rabbit.address}:15672")
    assert refused["HF801"] == refused["HF802"] == ["could not judge"]
    assert len(refused["HF823"]) == 4


def test_a_login_that_may_not_read_policies_is_skipped_and_said(rabbit: Server) -> None:
    rabbit.run("rabbitmqctl", "add_user", "viewer", "viewer")
    rabbit.run("rabbitmqctl", "set_permissions", "viewer", "", "", ".*")
    rabbit.run("rabbitmqctl", "set_user_tags", "viewer", "management")
    found = findings(application(rabbit), f"http://viewer:viewer@{rabbit.address}:15672")
    assert found["HF818"] == ["skipped"]
    assert found["HF822"] == ["queue endless has delivery-limit -1"]


@pytest.fixture(scope="module")
def redis(store: str) -> Iterator[Server]:
    """A Redis or Valkey that evicts and keeps nothing."""
    server = Server(store, "redis-server", "--protected-mode", "no", "--maxmemory-policy", "allkeys-lru")
    try:
        wait_until(lambda: server.answers("redis-cli", "ping"), "Redis answers", deadline=60)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def sentinel(store: str) -> Iterator[Server]:
    """A Sentinel alone, that waits a minute."""
    server = Server(store, "sh", "-c", SENTINEL)
    try:
        wait_until(lambda: server.answers("redis-cli", "-p", "26379", "ping"), "Sentinel answers", deadline=60)
        yield server
    finally:
        server.stop()


def test_a_redis_broker_is_asked(redis: Server) -> None:
    app = Celery("patient", broker=f"redis://{redis.address}", set_as_current=False)
    found = findings(app, None)
    assert "HF901" not in found or "8.0.6" in redis.run("redis-server", "--version"), "its version has the fixes"
    assert found["HF902"] == ["broker: aof_enabled is 0"]
    assert found["HF905"] == ["broker: maxmemory-policy is allkeys-lru"]
    assert found["HF906"] == ["broker: no replica is connected"]
    assert found["HF801"] == found["HF823"] == found["HF907"] == ["skipped"]
    both = Celery("patient", broker=f"redis://{redis.address}", backend=f"redis://{redis.address}/1")
    assert len(findings(both, None)["HF905"]) == 2


@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_tasks_that_outlived_the_visibility_timeout_are_found(redis: Server, prefix: str) -> None:
    app = Celery("patient", broker=f"redis://{redis.address}/3", set_as_current=False)
    long, short = ({"visibility_timeout": seconds, "global_keyprefix": prefix} for seconds in (3600, 2))
    app.conf.broker_transport_options = long
    assert "HF912" not in findings(app, None)
    app.send_task("shop.invoice", queue="overdue")
    with app.connection_for_read() as connection:
        taken = connection.default_channel.basic_get("overdue")
        assert taken
        assert "HF912" not in findings(app, None), "it was taken just now"
        app.conf.broker_transport_options = short
        wait_until(lambda: "HF912" in findings(app, None), "it is overdue", deadline=60)
        (text,) = findings(app, None)["HF912"]
        assert text.startswith("broker: 1 delivered and not acknowledged within 2 s, the oldest since ")
        assert text.endswith(" s (shop.invoice)")
        connection.default_channel.basic_ack(taken.delivery_tag)
    assert "HF912" not in findings(app, None)


def store_of(server: Server, user: str = "") -> Celery:
    backend = f"redis://{user}{server.address}/0"
    return Celery("patient", broker="memory://", backend=backend, set_as_current=False)


def test_a_redis_login_that_may_do_too_much(redis: Server) -> None:
    found = findings(store_of(redis), None)
    assert found["HF911"] == ["result store: the application logs in without a password"]
    (text,) = found["HF910"]
    for may in ("the login default may", "passwords included", "delete everything", "Sentinel", "another server"):
        assert may in text
    admin = f"redis://{redis.address}/0"

    def acl(*rules: str) -> None:
        redis.run("redis-cli", "ACL", "SETUSER", "app", "reset", "on", ">secret", *rules)

    acl("~*", "&*", "+@all")
    found = findings(store_of(redis, "app:secret@"), None)
    assert "the login app may read and change" in found["HF910"][0]
    assert found["HF911"] == ["result store: the user default needs no password"]
    acl("~celery-*", "resetchannels", "+@read", "+@write", "+@connection", "+info", "-@dangerous")
    assert findings(store_of(redis, "app:secret@"), None)["HF910"] == ["skipped"], "it may not ask about itself"
    assert "HF910" not in findings(store_of(redis, "app:secret@"), None, admin), "another login may"
    acl("~celery-*", "&*", "+@read", "+publish", "+info")
    one = findings(store_of(redis, "app:secret@"), None, admin)["HF910"]
    assert one == ["result store: the login app may make Sentinel name another primary"]


def test_a_redis_without_an_open_user(store: str) -> None:
    server = Server(store, "redis-server", "--requirepass", "secret")
    try:
        wait_until(lambda: server.answers("redis-cli", "-a", "secret", "ping"), "Redis answers", deadline=60)
        assert "HF911" not in findings(store_of(server, ":secret@"), None)
        assert findings(store_of(server), None)["HF911"] == ["could not judge"], "it is not let in"
    finally:
        server.stop()


def test_a_broker_login_that_may_do_too_much(rabbit: Server) -> None:
    page = f"http://doctor:doctor@{rabbit.address}:15672"
    assert sorted(findings(application(rabbit), page)["HF825"]) == [
        "the login doctor has the tag administrator",
        "the login doctor may configure, write and read everything in /",
    ]
    rabbit.run("rabbitmqctl", "add_user", "modest", "doctor")
    rabbit.run("rabbitmqctl", "set_permissions", "modest", "^$", "^tasks$", ".*")
    found = findings(application(rabbit, user="modest"), page)
    assert not {"HF825", "HF805"} & found.keys()
    assert findings(application(rabbit, user="modest"), page.replace("doctor:doctor", "modest:doctor"))["HF825"] == [
        "could not judge"
    ], "a login without a tag is not let into the page"
    app = Celery("patient", broker=f"amqp://{rabbit.address}//", set_as_current=False)
    assert findings(app, None)["HF805"] == ["the broker lets the login guest in from here"]


def test_sentinels_are_asked_each_alone(sentinel: Server) -> None:
    store = f"sentinel://{sentinel.address}:26379/0;sentinel://{sentinel.address}:1/0"
    app = Celery("patient", broker="memory://", backend=store, set_as_current=False)
    options: dict[str, Any] = {"master_name": "results", "sentinel_kwargs": {"socket_timeout": 30}}
    app.conf.result_backend_transport_options = options
    where = f"result store: Sentinel {sentinel.address}:26379"
    found = findings(app, None)
    assert found["HF907"] == [f"{where} knows 1 Sentinel(s), quorum 1", "could not judge"]
    assert found["HF908"] == [f"{where} has down-after-milliseconds 60000", "could not judge"]
    app.conf.result_backend_transport_options = options | {"master_name": "other"}
    assert findings(app, None)["HF909"] == [f"{where} does not know 'other'", "could not judge"]

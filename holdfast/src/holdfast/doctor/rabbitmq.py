"""What a running RabbitMQ shows: over AMQP with the application's own login, and over the management API with more."""

from __future__ import annotations

import base64
import json
import re
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from holdfast.doctor.rules import Finding, Rule, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.doctor.subject import Subject

OLDEST = (4, 3, 5)
WHY_OLDEST = "4.3.3 and 4.3.5 fix defects that lose data (premature commit, incomplete recovery)"
LEAST_DISK = 1_000_000_000  # bytes; the production checklist asks for more, less than this is no warning in time
SECONDS = 10


def _rule(number: str, severity: Severity, loss: str, fix: str) -> Rule:
    return Rule(number, severity, loss, fix, "", lambda _: None)


VERSION = _rule("HF801-rabbitmq-version", Severity.FATAL, WHY_OLDEST, "upgrade RabbitMQ to 4.3.5 or newer")
MISSING = _rule(
    "HF802-queue-missing",
    Severity.FATAL,
    "tasks for it are unroutable",
    "import the definitions before the application",
)
NO_CONSUMER = _rule("HF803-no-consumer", Severity.WARNING, "tasks wait and nobody runs them", "start a worker with -Q")
NO_DELAY = _rule(
    "HF804-no-delay-topology",
    Severity.FATAL,
    "a countdown or delayed retry fails until a first worker has declared it",
    "import the celery_delayed_* exchanges and queues with the definitions",
)
TYPE = _rule(
    "HF811-queue-type",
    Severity.FATAL,
    "the queue lives on one node: lost with its disk",
    "declare it anew with x-queue-type quorum",
)
MEMBERS = _rule(
    "HF812-queue-members",
    Severity.WARNING,
    "one more node down and the queue stops, or its only copy is lost",
    "start the missing nodes; rabbitmq-queues grow NODE all",
)
NO_LIMIT = _rule(
    "HF813-dead-lettering",
    Severity.FATAL,
    "a task that failed for good, or was redelivered 20 times, is dropped",
    "a policy with delivery-limit and dead-letter-exchange",
)
AT_MOST_ONCE = _rule(
    "HF814-dead-letter-strategy",
    Severity.WARNING,
    "a message on its way to the dead-letter queue can vanish with a node",
    "dead-letter-strategy: at-least-once, which works only together with overflow: reject-publish",
)
DROP_HEAD = _rule(
    "HF815-overflow", Severity.FATAL, "a full queue drops its oldest tasks", "overflow: reject-publish in the policy"
)
NO_ALTERNATE = _rule(
    "HF816-alternate-exchange",
    Severity.WARNING,
    "a task that no queue is bound for is dropped by publishers that do not ask for its return",
    "a policy with alternate-exchange on the exchange",
)
CONSUMER_TIMEOUT = _rule(
    "HF817-consumer-timeout",
    Severity.WARNING,
    "the broker takes a running task away and hands it to another worker",
    "consumer-timeout in the policy above task_time_limit",
)
ALARM = _rule("HF818-alarm", Severity.FATAL, "publishers are blocked on the whole cluster", "free disk or memory there")
DISK_LIMIT = _rule(
    "HF819-disk-limit", Severity.WARNING, "the disk is full before the alarm is heard", "disk_free_limit.absolute = 2GB"
)
CLUSTER = _rule("HF820-cluster", Severity.WARNING, "no node may fail", "three nodes, all of them running")
AMQP = (VERSION, MISSING, NO_CONSUMER, NO_DELAY)
MANAGEMENT = (
    TYPE,
    MEMBERS,
    NO_LIMIT,
    AT_MOST_ONCE,
    DROP_HEAD,
    NO_ALTERNATE,
    CONSUMER_TIMEOUT,
    ALARM,
    DISK_LIMIT,
    CLUSTER,
)


def number(version: str) -> tuple[int, ...]:
    """Return the numbers of a version for comparison."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def examine_amqp(subject: Subject) -> Iterator[Finding]:
    """Look at the broker with the application's own login; nothing is declared or consumed.

    Raises:
        OSError: no broker answers.
        amqp.exceptions.AMQPError: it refuses the login.
    """
    from amqp.exceptions import NotFound  # noqa: PLC0415 - only for RabbitMQ

    with subject.app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=3, interval_start=1, interval_step=1)
        version = str(connection.connection.server_properties.get("version", "0"))
        if number(version) < OLDEST:
            yield Finding(VERSION, f"RabbitMQ {version}")
        for name in subject.queues:
            channel: Any = connection.channel()
            try:
                declared = channel.queue_declare(name, passive=True)
            except NotFound:
                yield Finding(MISSING, f"queue {name} is not there")
                continue
            if not declared.consumer_count:
                yield Finding(NO_CONSUMER, f"queue {name} has no consumer, {declared.message_count} ready")
            channel.close()
        channel = connection.channel()
        try:
            channel.exchange_declare("celery_delayed_delivery", "topic", passive=True)
            channel.close()
        except NotFound:
            yield Finding(NO_DELAY, "exchange celery_delayed_delivery is not there")


class Management:
    """The management API of one node.

    Args:
        url: ``http://user:password@host:15672``, or ``https`` and port 15671.
        files: ``broker_use_ssl`` of the application, whose authority has signed the certificate of an ``https`` page;
            by default the system's authorities count.
    """

    def __init__(self, url: str, files: dict[str, Any] | None = None) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._base = f"{parts.scheme}://{parts.hostname}:{parts.port or (15671 if secure else 15672)}/api"
        self._context = ssl.create_default_context(cafile=files["ca_certs"] if files else None) if secure else None
        if self._context and files and files["certfile"]:
            self._context.load_cert_chain(files["certfile"], files["keyfile"])
        self._headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}

    def get(self, path: str) -> Any:
        """Return a document.

        Raises:
            OSError: the API does not answer, or refuses.
        """
        request = urllib.request.Request(f"{self._base}/{path}", headers=self._headers)  # noqa: S310 - the operator's URL
        with urllib.request.urlopen(request, timeout=SECONDS, context=self._context) as answer:  # noqa: S310 - as above
            return json.load(answer)


def examine_management(subject: Subject, api: Management) -> Iterator[Finding | str]:
    """Look at queues, policies and nodes over the management API; what may not be read comes as a text that says so.

    Raises:
        OSError: the API does not answer, or refuses the login.
    """
    vhost = quote(unquote(urlsplit(subject.broker_urls[0]).path[1:]) or "/", safe="")
    queues = {queue["name"]: queue for queue in api.get(f"queues/{vhost}")}
    for name in subject.queues:
        if name in queues:
            yield from _queue(subject, queues[name])
    for exchange in sorted({queue.exchange.name for queue in subject.queues.values() if queue.exchange.name}):
        found = api.get(f"exchanges/{vhost}/{quote(exchange, safe='')}")
        try:
            policy = _policy(api, vhost, found.get("policy"))
        except urllib.error.HTTPError as error:
            yield f"{NO_ALTERNATE.id}: the login may not read policies, which needs the tag policymaker ({error})"
            continue
        if "alternate-exchange" not in {**found["arguments"], **policy}:
            yield Finding(NO_ALTERNATE, f"exchange {exchange} has none")
    nodes = api.get("nodes")
    running = [node["name"] for node in nodes if node["running"]]
    if len(running) < 3 or len(running) < len(nodes):
        yield Finding(CLUSTER, f"{len(running)} of {len(nodes)} nodes run")
    for node in nodes:
        alarms = [kind for kind in ("mem_alarm", "disk_free_alarm") if node.get(kind)]
        if alarms:
            yield Finding(ALARM, f"{node['name']}: {', '.join(alarms)}")
        limit = node.get("disk_free_limit", LEAST_DISK)
        if isinstance(limit, int) and limit < LEAST_DISK:
            yield Finding(DISK_LIMIT, f"{node['name']}: {limit} bytes")


def _policy(api: Management, vhost: str, name: str | None) -> dict[str, Any]:
    return dict(api.get(f"policies/{vhost}/{quote(name, safe='')}")["definition"]) if name else {}


def _queue(subject: Subject, queue: dict[str, Any]) -> Iterator[Finding]:
    name = queue["name"]
    if queue.get("type") != "quorum":
        yield Finding(TYPE, f"queue {name} is {queue.get('type')}")
        return
    members, online = queue.get("members") or [], queue.get("online") or []
    if len(members) < 3 or len(online) < len(members):
        yield Finding(MEMBERS, f"queue {name}: {len(online)} of {len(members)} members online")
    policy = {
        **(queue.get("effective_policy_definition") or {}),
        **{key.removeprefix("x-"): value for key, value in queue["arguments"].items()},
    }
    if "dead-letter-exchange" not in policy:
        yield Finding(NO_LIMIT, f"queue {name} has no dead-letter-exchange")
    elif policy.get("dead-letter-strategy") != "at-least-once" or policy.get("overflow") != "reject-publish":
        strategy, overflow = policy.get("dead-letter-strategy", "at-most-once"), policy.get("overflow", "drop-head")
        yield Finding(AT_MOST_ONCE, f"queue {name}: {strategy}, {overflow}")
    if {"max-length", "max-length-bytes"} & policy.keys() and policy.get("overflow", "drop-head") == "drop-head":
        yield Finding(DROP_HEAD, f"queue {name} has a length limit and drops its head")
    limit, timeout = subject.get("task_time_limit"), policy.get("consumer-timeout")
    if limit and timeout and timeout <= limit * 1000:
        yield Finding(CONSUMER_TIMEOUT, f"queue {name}: {timeout / 1000:g} s, time limit {limit} s")

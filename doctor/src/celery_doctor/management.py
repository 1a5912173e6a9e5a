"""What a running RabbitMQ shows over its management API: members, policies, alarms."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from celery_doctor.dead_letters import complaints, settings_of
from celery_doctor.rules import NotAllowedError, Severity, each
from celery_doctor.rules import management_rules as rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_doctor.subject import Subject

LEAST_DISK = 1_000_000_000  # bytes; the production checklist asks for more, less than this is no warning in time
SECONDS = 10  # that the API has for each answer


class Management:
    """The management API of one node; each document is asked for once, and its error kept like an answer.

    Args:
        url: ``http://user:password@host:15672``, or ``https`` and port 15671.
        files: ``broker_use_ssl`` of the application, whose authority has signed the certificate of an ``https`` page;
            by default the system's authorities count.

    Raises:
        ValueError: the URL is of neither form.
    """

    def __init__(self, url: str, files: dict[str, Any] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("--management is http://user:password@host:15672, or https:// and port 15671")
        secure = parts.scheme == "https"
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._base = f"{parts.scheme}://{host}:{parts.port or (15671 if secure else 15672)}/api"
        self._context = ssl.create_default_context(cafile=files["ca_certs"] if files else None) if secure else None
        if self._context and files and files["certfile"]:
            self._context.load_cert_chain(files["certfile"], files["keyfile"])
        self._headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
        self._kept: dict[str, Any] = {}

    def get(self, path: str) -> Any:
        """Return a document, None when there is none of that name.

        Raises:
            NotAllowedError: the login may not read this one, although it is known.
            OSError: the API does not answer, or refuses the login.
        """
        if path not in self._kept:
            try:
                self._kept[path] = self._ask(path)
            except Exception as error:  # noqa: BLE001 - raised below, each time
                self._kept[path] = error
        if isinstance(self._kept[path], Exception):
            raise self._kept[path]
        return self._kept[path]

    def _ask(self, path: str) -> Any:
        request = urllib.request.Request(f"{self._base}/{path}", headers=self._headers)  # noqa: S310 - the operator's URL
        try:
            with urllib.request.urlopen(request, timeout=SECONDS, context=self._context) as answer:  # noqa: S310 - as above
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code in (401, 403) and path != "whoami":
                self.get("whoami")
                raise NotAllowedError(f"the login may not read {path.split('/', maxsplit=1)[0]} ({error})") from error
            raise


class Cluster:
    """A RabbitMQ cluster as one application meets it.

    Args:
        subject: the application.
        api: the management API of one of its nodes.
    """

    def __init__(self, subject: Subject, api: Management) -> None:
        self.subject = subject
        self.api = api
        self._vhost = quote(unquote(subject.write_brokers[0].parts.path[1:]) or "/", safe="")

    @property
    def every_queue(self) -> dict[str, dict[str, Any]]:
        """All queues of the virtual host, by name."""
        return {queue["name"]: queue for queue in self.api.get(f"queues/{self._vhost}") or ()}

    @property
    def queues(self) -> list[dict[str, Any]]:
        """Those queues of the application that are there; HF802 names the others."""
        every = self.every_queue
        return [every[name] for name in self.subject.queues if name in every]

    @property
    def quorum_queues(self) -> list[dict[str, Any]]:
        """Those of them that are quorum queues; HF811 names the others."""
        return [queue for queue in self.queues if queue.get("type") == "quorum"]

    @cached_property
    def exchanges(self) -> list[str]:
        """The exchanges that the application's queues are bound to, but for the default one."""
        return sorted({queue.exchange.name for queue in self.subject.queues.values() if queue.exchange.name})

    def exchange(self, name: str) -> dict[str, Any] | None:
        """Return an exchange, None when it is not there."""
        found: dict[str, Any] | None = self.api.get(f"exchanges/{self._vhost}/{quote(name, safe='')}")
        return found

    def bindings(self, exchange: str) -> list[dict[str, Any]]:
        """Return what is bound to an exchange."""
        return list(self.api.get(f"exchanges/{self._vhost}/{quote(exchange, safe='')}/bindings/source") or ())

    def alternate(self, exchange: dict[str, Any]) -> str:
        """Return the alternate exchange of an exchange, an empty text without one."""
        own = exchange["arguments"].get("alternate-exchange")
        name = exchange.get("policy")
        if own or not name:
            return str(own or "")
        policy = self.api.get(f"policies/{self._vhost}/{quote(name, safe='')}") or {}
        return str(policy.get("definition", {}).get("alternate-exchange", ""))

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the cluster."""
        return list(self.api.get("nodes") or ())


@rule(
    "HF811-queue-type",
    Severity.FATAL,
    loss="the queue lives on one node: lost with its disk",
    fix="a quorum queue of another name; holdfast migrate-queues moves the tasks to it while the application runs",
)
def queue_type(cluster: Cluster) -> list[str]:
    return [f"queue {one['name']} is {one.get('type')}" for one in cluster.queues if one.get("type") != "quorum"]


@rule(
    "HF812-queue-members",
    Severity.WARNING,
    loss="if one more node fails, the queue stops, or its only copy is lost",
    fix="start the missing nodes; rabbitmq-queues grow NODE all",
)
def queue_members(cluster: Cluster) -> Iterator[str]:
    for queue in cluster.quorum_queues:
        members, online = queue.get("members") or [], queue.get("online") or []
        if len(members) < 3 or len(online) < len(members):
            yield f"queue {queue['name']}: {len(online)} of {len(members)} members online"


@rule(
    "HF813-dead-lettering",
    Severity.FATAL,
    loss="a task that failed permanently, or was redelivered 20 times, is dropped",
    fix="a policy with delivery-limit and dead-letter-exchange",
)
def dead_lettering(cluster: Cluster) -> list[str]:
    without = [one["name"] for one in cluster.queues if "dead-letter-exchange" not in settings_of(one)]
    return [f"queue {name} has no dead-letter-exchange" for name in without]


@rule(
    "HF814-dead-letter-strategy",
    Severity.WARNING,
    loss="a message on its way to the dead-letter queue can vanish with a node",
    fix="dead-letter-strategy: at-least-once, which works only together with overflow: reject-publish",
)
def dead_letter_strategy(cluster: Cluster) -> Iterator[str]:
    for queue in cluster.quorum_queues:
        policy = settings_of(queue)
        strategy, overflow = policy.get("dead-letter-strategy", "at-most-once"), policy.get("overflow", "drop-head")
        if "dead-letter-exchange" in policy and (strategy, overflow) != ("at-least-once", "reject-publish"):
            yield f"queue {queue['name']}: {strategy}, {overflow}"


@rule(
    "HF815-overflow",
    Severity.FATAL,
    loss="a full queue drops its oldest tasks",
    fix="overflow: reject-publish in the policy",
)
def overflow(cluster: Cluster) -> Iterator[str]:
    for queue in cluster.queues:
        policy = settings_of(queue)
        limited = {"max-length", "max-length-bytes"} & policy.keys()
        if limited and policy.get("overflow", "drop-head") == "drop-head":
            yield f"queue {queue['name']} has a length limit and drops its head"


@rule(
    "HF816-alternate-exchange",
    Severity.WARNING,
    loss="an unroutable task is dropped when its publisher does not set the mandatory flag",
    fix="a policy with alternate-exchange on the exchange",
)
def alternate_exchange(cluster: Cluster) -> Iterator[str]:
    def look(name: str) -> Iterator[str]:
        found = cluster.exchange(name)
        if found and not cluster.alternate(found):
            yield f"exchange {name} has none"

    return each(cluster.exchanges, look)


@rule(
    "HF817-consumer-timeout",
    Severity.WARNING,
    loss="the broker redelivers a running task to another worker",
    fix="consumer-timeout in the policy above task_time_limit",
)
def consumer_timeout(cluster: Cluster) -> Iterator[str]:
    limit = cluster.subject.number("task_time_limit")
    for queue in cluster.queues:
        timeout = settings_of(queue).get("consumer-timeout")
        if limit and timeout and timeout <= limit * 1000:
            yield f"queue {queue['name']}: {timeout / 1000:g} s, time limit {limit:g} s"


@rule(
    "HF818-alarm",
    Severity.FATAL,
    loss="all publishers of the cluster are blocked",
    fix="free disk or memory there",
)
def alarm(cluster: Cluster) -> Iterator[str]:
    for node in cluster.nodes:
        alarms = [kind for kind in ("mem_alarm", "disk_free_alarm") if node.get(kind)]
        if alarms:
            yield f"{node['name']}: {', '.join(alarms)}"


@rule(
    "HF819-disk-limit",
    Severity.WARNING,
    loss="the disk is full before the alarm is raised",
    fix="disk_free_limit.absolute = 2GB",
)
def disk_limit(cluster: Cluster) -> Iterator[str]:
    for node in cluster.nodes:
        limit = node.get("disk_free_limit", LEAST_DISK)
        if isinstance(limit, int) and limit < LEAST_DISK:
            yield f"{node['name']}: {limit} bytes"


@rule("HF820-cluster", Severity.WARNING, loss="no node may fail", fix="three nodes, all of them running")
def nodes(cluster: Cluster) -> str | None:
    every = cluster.nodes
    running = [node for node in every if node["running"]]
    return f"{len(running)} of {len(every)} nodes run" if len(running) < max(3, len(every)) else None


@rule(
    "HF821-queue-expires",
    Severity.FATAL,
    loss="tasks that wait longer than message-ttl never run; expires deletes the queue with its tasks",
    fix="no message-ttl and no expires in the policies and arguments of task queues; let tasks check their own age",
)
def queue_expires(cluster: Cluster) -> Iterator[str]:
    for queue in cluster.queues:
        policy = settings_of(queue)
        yield from (
            f"queue {queue['name']} has {key} {policy[key]} ms" for key in ("message-ttl", "expires") if key in policy
        )


@rule(
    "HF822-delivery-limit",
    Severity.WARNING,
    loss="-1: a task that kills its worker is redelivered forever; 0: the first lost worker drops or dead-letters it",
    fix="delivery-limit: 20 in the policy",
)
def delivery_limit(cluster: Cluster) -> Iterator[str]:
    for queue in cluster.quorum_queues:
        limit = settings_of(queue).get("delivery-limit")
        if isinstance(limit, int) and limit <= 0:
            yield f"queue {queue['name']} has delivery-limit {limit}"


@rule(
    "HF823-dead-letter-target",
    Severity.FATAL,
    loss="a task that fails permanently is dropped, stays in its queue, or runs again forever",
    fix="an existing dead-letter-exchange, bound to a separate quorum queue that no worker consumes",
)
def dead_letter_target(cluster: Cluster) -> Iterator[str]:
    return each(cluster.queues, lambda queue: complaints(cluster, queue))


@rule(
    "HF824-exchange-missing",
    Severity.FATAL,
    loss="every publish to it fails (404)",
    fix="import the definitions before the application",
)
def exchange_missing(cluster: Cluster) -> Iterator[str]:
    def look(name: str) -> Iterator[str]:
        if cluster.exchange(name) is None:
            yield f"exchange {name} is not there"

    return each(cluster.exchanges, look)

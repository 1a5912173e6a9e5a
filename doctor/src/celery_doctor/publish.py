"""Rules on the way from the application to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_doctor.consume import names
from celery_doctor.rules import Severity
from celery_doctor.rules import settings_rules as rule
from celery_doctor.subject import as_number

if TYPE_CHECKING:
    from celery_doctor.subject import Subject


@rule(
    "HF101-confirm-publish",
    Severity.FATAL,
    loss="delay() returns although the broker never had the task: lost when the broker dies or raises an alarm",
    sets={"broker_transport_options": {"confirm_publish": "True"}},
    see="celery#5410",
)
def confirm_publish(subject: Subject) -> str | None:
    if subject.amqp and not subject.durable_publisher and not subject.transport.get("confirm_publish"):
        return "publishes are not confirmed by the broker"
    return None


@rule(
    "HF102-unbounded-confirm",
    Severity.WARNING,
    loss="delay() hangs forever on a frozen node or during an alarm",
    fix="holdfast.install(app), or a task_routes function that adds confirm_timeout to every publish",
    see="celery#9259",
)
def unbounded_confirm(subject: Subject) -> str | None:
    if subject.amqp and subject.transport.get("confirm_publish") and not subject.durable_publisher:
        return "the wait for a confirm has no limit that the settings show"
    return None


@rule(
    "HF103-confirm-timeout-ignored",
    Severity.WARNING,
    loss="the limit has no effect: delay() hangs forever on a frozen node",
    fix="confirm_timeout belongs to each message: holdfast.install(app), or a task_routes function",
    see="celery#9259",
)
def confirm_timeout_ignored(subject: Subject) -> str | None:
    if subject.amqp and "confirm_timeout" in subject.transport:
        return "confirm_timeout stands in broker_transport_options, where py-amqp ignores it"
    return None


@rule(
    "HF104-mandatory",
    Severity.WARNING,
    loss="an unroutable task is confirmed nevertheless, and lost",
    fix='task_annotations = {"*": {"mandatory": True}}, or holdfast.install(app); and an alternate exchange',
    see="celery#9149",
)
def mandatory(subject: Subject) -> str | None:
    if not subject.amqp or subject.durable_publisher or any(route.options is None for route in subject.routes):
        return None
    missing = [task.name for task in subject.tasks if not getattr(task, "mandatory", None)]
    if missing or not subject.tasks:
        return f"unroutable publishes go unnoticed ({names(missing) or 'every task'})"
    return None


@rule(
    "HF105-one-broker",
    Severity.WARNING,
    loss="publishers and workers stop while that node is down",
    fix='broker_url = "amqp://node1/;amqp://node2/;amqp://node3/"',
)
def one_broker(subject: Subject) -> str | None:
    alone = subject.amqp and any(
        len({one.place for one in way}) == 1 for way in (subject.write_brokers, subject.read_brokers)
    )
    return "one broker address" if alone else None


@rule(
    "HF106-publish-retry-off",
    Severity.WARNING,
    loss="the first reset connection makes delay() raise, and callers that do not expect it lose the task",
    sets={"task_publish_retry": "True"},
)
def publish_retry_off(subject: Subject) -> str | None:
    return None if subject.get("task_publish_retry") else "task_publish_retry is off"


@rule(
    "HF107-publish-retry-endless",
    Severity.WARNING,
    loss="delay() hangs for as long as the broker is down, and with it the web process",
    sets={"task_publish_retry_policy": {"max_retries": "8"}},
    see="celery#4296",
)
def publish_retry_endless(subject: Subject) -> str | None:
    policy = subject.mapping("task_publish_retry_policy")
    if not subject.durable_publisher and "max_retries" in policy and policy["max_retries"] is None:
        return "task_publish_retry_policy has no max_retries"
    return None


RETRY_DEFAULTS = {"start": 0, "step": 0.2, "max": 0.2}  # seconds, of kombu's retry_over_time as Celery calls it


@rule(
    "HF108-publish-retry-short",
    Severity.ADVICE,
    loss="delay() raises after 0.6 s without a broker, sooner than any failover",
    sets={"task_publish_retry_policy": {"max_retries": "8", "interval_step": "0.5", "interval_max": "3"}},
)
def publish_retry_short(subject: Subject) -> str | None:
    policy = subject.mapping("task_publish_retry_policy")
    tries = as_number(policy.get("max_retries", 3), "max_retries of task_publish_retry_policy")
    if subject.durable_publisher or tries is None:
        return None
    start, step, most = (
        as_number(policy.get(f"interval_{name}"), f"interval_{name} of task_publish_retry_policy", default) or 0
        for name, default in RETRY_DEFAULTS.items()
    )
    patience = sum(min(start + step * number, most) for number in range(min(int(tries), 1000)))
    return f"retries end after {patience:.1f} s" if patience < 5 else None


@rule(
    "HF109-pool-wait",
    Severity.WARNING,
    loss="when all connections of the pool hang, the next thread waits for one forever",
    sets={"broker_pool_acquire_timeout": "10"},
)
def pool_wait(subject: Subject) -> str | None:
    if subject.durable_publisher or subject.get("broker_pool_acquire_timeout") is not None:
        return None
    return "broker_pool_acquire_timeout is not set"


@rule(
    "HF111-route-by-key",
    Severity.FATAL,
    loss="a countdown raises KeyError, and every delayed retry is rejected instead: the task is gone",
    fix='name the queue in the route: {"queue": "default"}, or use holdfast.routing.Router',
    see="celery#9685",
)
def route_by_key(subject: Subject) -> str | None:
    wrong = [
        f"{route.pattern}: {route.options}" for route in subject.routes
        if route.options and not route.queue and "exchange_type" not in route.options
        and {"routing_key", "exchange"} & route.options.keys()
    ]  # fmt: skip
    return f"task_routes without a queue ({'; '.join(wrong)})" if subject.amqp and wrong else None


@rule(
    "HF112-route-of-retries",
    Severity.ADVICE,
    loss="the delayed retry of a task moves to another queue than the one it came from",
    fix="use a function such as holdfast.routing.Router, which leaves a message that has a target alone",
)
def route_of_retries(subject: Subject) -> str | None:
    wild = [route.queue for route in subject.routes if route.pattern == "*" and route.queue]
    return f'task_routes sends "*" to {wild[0]}' if subject.amqp and wild and len(subject.queues) > 1 else None


@rule(
    "HF113-transient-messages",
    Severity.FATAL,
    loss="messages are kept in memory only and vanish with the broker",
    sets={"task_default_delivery_mode": '"persistent"'},
)
def transient_messages(subject: Subject) -> str | None:
    mode = subject.get("task_default_delivery_mode")
    return f"task_default_delivery_mode is {mode!r}" if subject.amqp and mode in (1, "1", "transient") else None


@rule(
    "HF114-user-timeout",
    Severity.ADVICE,
    loss="a network outage of one second closes every connection, and every running task runs twice",
    fix='broker_transport_options = {"socket_settings": {socket.TCP_USER_TIMEOUT: 15000}, ...}',
)
def user_timeout(subject: Subject) -> str | None:
    given = subject.transport.get("socket_settings") or {}
    if subject.amqp and not {18, "TCP_USER_TIMEOUT"} & set(given):  # 18: its number on Linux
        return "TCP_USER_TIMEOUT is py-amqp's own, 1000 ms"
    return None


@rule(
    "HF115-sent-events",
    Severity.ADVICE,
    loss="each task costs a second confirmed publish, which can fail after the task went out",
    sets={"task_send_sent_event": "False"},
)
def sent_events(subject: Subject) -> str | None:
    if subject.amqp and subject.get("task_send_sent_event") and not subject.durable_publisher:
        return "task_send_sent_event is on"
    return None


@rule(
    "HF117-unverified-tls",
    Severity.WARNING,
    loss="an attacker in the network can read and change tasks, or impersonate the broker",
    fix='broker_use_ssl = {"ca_certs": "/path/ca.pem", "cert_reqs": ssl.CERT_REQUIRED} (ssl_ca_certs and ssl_cert_reqs'
    " for Redis)",
)
def unverified_tls(subject: Subject) -> list[str]:
    given = subject.get("broker_use_ssl")
    options = dict(given) if isinstance(given, dict) else {}
    found = [f"broker_use_ssl has {text}" for text in unverified(options)]
    for address in {one.place: one for one in (*subject.write_brokers, *subject.read_brokers)}.values():
        found += [f"the URL of {address.place} has {text}" for text in unverified(address.options)]
        if address.scheme in ("rediss", "valkeys") and not given and not {"ssl_cert_reqs"} & address.options.keys():
            found.append(f"{address.scheme}://{address.place} without ssl_cert_reqs, which kombu takes for CERT_NONE")
    return found


def unverified(options: dict[str, Any]) -> list[str]:
    """Return the TLS options under which a certificate is not checked, as text.

    Args:
        options: of ``broker_use_ssl`` or ``redis_backend_use_ssl``, or what stands behind a URL's question mark.
    """
    found = []
    for name in ("cert_reqs", "ssl_cert_reqs"):
        value = options.get(name)
        if value is not None and str(value).rpartition(".")[2].lower().replace("cert_", "") in (
            "none",
            "0",
            "optional",
            "1",
        ):
            found.append(f"{name} {value}")
    names_off = ("check_hostname", "ssl_check_hostname")
    off = {name: options[name] for name in names_off if str(options.get(name)).lower() in ("false", "0", "no")}
    found += [f"{name} {value}" for name, value in off.items()]
    return found


@rule(
    "HF118-always-eager",
    Severity.WARNING,
    loss="delay() runs the task in the caller: nothing reaches a broker, and nothing survives the process",
    fix="task_always_eager = False outside tests",
)
def always_eager(subject: Subject) -> str | None:
    return "task_always_eager is on" if subject.get("task_always_eager") else None


@rule(
    "HF119-broker-in-memory",
    Severity.WARNING,
    loss="tasks exist in one process or folder and are lost with it",
    fix='broker_url = "amqp://node1/;amqp://node2/;amqp://node3/"',
)
def broker_in_memory(subject: Subject) -> str | None:
    return f"the broker is {subject.write_brokers[0].scheme}" if subject.broker == "memory" else None


UNSEEN = {  # what decides about losses where the doctor does not look, by broker
    "sqs": "its retention, redrive policy and dead-letter queue",
    "gcpubsub": "its retention, acknowledgement deadline and dead-letter topic",
    "azureservicebus": "its lock duration, time to live and dead-letter queue",
    "azurestoragequeues": "its time to live; it has no dead-letter queue",
    "confluentkafka": "its replication, retention and offsets",
    "kafka": "its replication, retention and offsets",
    "mongodb": "its write concern and replica set",
    "sqlalchemy": "the transactions and the copies of its database",
}


@rule(
    "HF120-unknown-broker",
    Severity.ADVICE,
    loss="few rules cover this broker: those that apply to every broker, and HF507 on SQS",
    fix="check by hand what the finding names; all of this was measured on RabbitMQ with quorum queues",
)
def unknown_broker(subject: Subject) -> str | None:
    if subject.broker in ("amqp", "redis", "memory"):
        return None
    kind = {"sqla": "sqlalchemy", "database": "sqlalchemy"}.get(subject.broker, subject.broker)
    return f"the broker is {kind}; the doctor cannot judge {UNSEEN.get(kind, 'what it keeps')}"


@rule(
    "HF121-broker-not-set",
    Severity.ADVICE,
    loss="the findings are about RabbitMQ on this machine, Celery's default, and not about the broker of production",
    fix="run the doctor with the environment of production (with Holdfast: load app.env first), or set broker_url",
)
def broker_not_set(subject: Subject) -> str | None:
    return None if subject.get("broker_write_url") else "broker_url is not set here"

"""What becomes of a queue: what the management API shows of it, whether it can be moved, and what the new one lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kombu.transport.base import to_rabbitmq_queue_arguments

from celery_doctor.dead_letters import settings_of
from celery_doctor.management import Management
from celery_doctor.subject import Subject

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Queue

    Place = tuple[str, str]  # exchange and routing key

# What a quorum queue of RabbitMQ 4.3 does otherwise, by the setting of a classic queue
OTHERWISE = {
    "max-priority": "a quorum queue always has the priorities 0 to 31, serves the highest first, and takes none for 4",
    "queue-mode": "a quorum queue keeps no message bodies in memory",
    "queue-version": "only classic queues have one",
    "queue-master-locator": "x-queue-leader-locator chooses where the leader of a quorum queue begins",
}
DEFAULT_EXCHANGE = ""


class NotMovableError(Exception):
    """This queue cannot be moved, or not there.

    Args:
        found: what is the matter.
        allowed: what would be right.
        following: the next step.
    """

    def __init__(self, found: str, allowed: str, following: str) -> None:
        super().__init__(f"found:   {found}\nallowed: {allowed}\nnext:    {following}")


class Shown:
    """What the management API shows of a virtual host at this moment.

    Args:
        app: the application, whose authority signs the page's certificate.
        url: the API with a login, as for ``holdfast doctor --management``.
        vhost: the virtual host.

    Raises:
        ValueError: the URL is of another form.
    """

    def __init__(self, app: Celery[Any], url: str, vhost: str) -> None:
        self._api = Management(url, Subject(app).tls)
        self._vhost = quote(vhost, safe="")

    def _get(self, kind: str, name: str, rest: str = "") -> Any:
        return self._api.get(f"{kind}/{self._vhost}/{quote(name, safe='')}{rest}")

    def queue(self, name: str) -> dict[str, Any] | None:
        """Return a queue, None when there is none of that name."""
        found: dict[str, Any] | None = self._get("queues", name)
        return found

    def places(self, queue: str) -> set[Place]:
        """Return what a queue is bound to, but for the default exchange."""
        bindings = self._get("queues", queue, "/bindings") or ()
        return {(one["source"], one["routing_key"]) for one in bindings if one["source"] != DEFAULT_EXCHANGE}

    def kind(self, exchange: str) -> str:
        """Return the type of an exchange; one that is not there yet is ``direct``, as kombu would make it."""
        return str((self._get("exchanges", exchange) or {}).get("type", "direct"))

    def reached(self, place: Place) -> set[str]:
        """Return the queues and exchanges that a message reaches directly from an exchange."""
        exchange, key = place
        bindings = self._get("exchanges", exchange, "/bindings/source") or ()
        kind = self.kind(exchange)
        return {one["destination"] for one in bindings if meet(kind, one["routing_key"], key)}


@dataclass(frozen=True)
class Plan:
    """A queue that can be moved.

    Attributes:
        old: its name.
        new: the quorum queue, as the application describes it.
        place: exchange and routing key that lead to the new queue alone.
        declares: the new queue is not there yet.
        differs: each setting that holds for the old queue and not for the new one, with what to do.
    """

    old: str
    new: Queue
    place: Place
    declares: bool
    differs: list[str]


def plan(app: Celery[Any], shown: Shown, old: str, new: str) -> Plan:
    """Look at a queue and at the one that takes its place.

    Args:
        app: the application, which describes the new queue.
        shown: what is there.
        old: name of the queue to empty.
        new: name of the queue to fill.

    Raises:
        NotMovableError: the messages would not be safe, or could run twice.
        OSError: the management API does not answer, or refuses the login.
    """
    source = _source(shown, old)
    if old == new:
        raise NotMovableError(
            f"{old} twice",
            "two names: between the deletion of a queue and its declaration a publish finds none, and Celery does not "
            "notice",
            f"move to another name; for {old} as the name in the end, move back when no client uses the old queue",
        )
    target, described = shown.queue(new), _described(app, new)
    arguments = _arguments(described)
    if target is None and described.no_declare:
        raise NotMovableError(
            f"no queue {new}, and the application does not declare it (no_declare)",
            "a quorum queue that is there",
            f"add {new} to the broker's definitions",
        )
    kind = target["type"] if target else arguments.get("x-queue-type", "classic")
    if kind != "quorum":
        raise NotMovableError(
            f"{new} {'is' if target else 'would be'} a queue of the type {kind}",
            "quorum",
            f'describe it in task_queues: Queue("{new}", ..., queue_arguments={{"x-queue-type": "quorum"}})',
        )
    places = _places(described)
    _keep_apart(shown, old, new, places | shown.places(new))
    own = next(iter(places), None)
    alone = own is not None and shown.reached(own) <= {new} and (target is None or own in shown.places(new))
    return Plan(
        old,
        described,
        own if own is not None and alone else (DEFAULT_EXCHANGE, new),
        target is None,
        list(_differences(source, target or {"arguments": arguments})),
    )


def meet(kind: str, one: str, other: str) -> bool:
    """Tell whether a message can match both of two bindings.

    Args:
        kind: the type of their exchange.
        one: routing key of a binding; in a topic exchange a pattern.
        other: that of the other one, or the key of a message.
    """
    if kind == "direct":
        return one == other
    if kind == "topic":
        return _meet(one.split("."), other.split("."))
    return True  # fanout; of headers and of plugins only the broker knows


def _meet(one: list[str], other: list[str]) -> bool:
    if not one or not other:
        return all(word == "#" for word in one + other)
    if "#" in (one[0], other[0]):
        return _meet(one[1:], other) or _meet(one, other[1:])
    return (one[0] == other[0] or "*" in (one[0], other[0])) and _meet(one[1:], other[1:])


def _source(shown: Shown, old: str) -> dict[str, Any]:
    source = shown.queue(old)
    if source is None:
        raise NotMovableError(f"no queue {old} in this virtual host", "one that is there", "rabbitmqctl list_queues")
    wrong = {
        "is a stream": source.get("type") == "stream",
        "is exclusive: only the connection that made it can read it": source.get("exclusive"),
        "is deleted with its messages when its last consumer ends (auto_delete)": source.get("auto_delete"),
    }
    for found in (text for text, holds in wrong.items() if holds):
        raise NotMovableError(f"{old} {found}", "a classic or quorum queue", "let its consumers empty it")
    return source


def _described(app: Celery[Any], new: str) -> Any:
    queues: Any = app.amqp.queues
    if new not in queues and not app.conf.task_create_missing_queues:
        raise NotMovableError(
            f"the application has no queue {new}",
            ", ".join(queues) or "none",
            "describe it in task_queues, with an exchange or a routing key of its own",
        )
    return queues[new]  # a Queue; the stubs know only its name


def _arguments(described: Any) -> dict[str, Any]:
    """Return the arguments with which kombu declares a queue."""
    names = ("expires", "message_ttl", "max_length", "max_length_bytes", "max_priority")
    own = {name: getattr(described, name) for name in names}
    return dict(to_rabbitmq_queue_arguments(described.queue_arguments or {}, **own))


def _places(described: Any) -> set[Place]:
    found = {(one.exchange.name, one.routing_key or "") for one in described.bindings or ()}
    return found | ({(described.exchange.name, described.routing_key or "")} if described.exchange else set())


def _keep_apart(shown: Shown, old: str, new: str, places: set[Place]) -> None:
    """Refuse two queues that a message can reach at the same time."""
    for exchange, key in shown.places(old):
        for other, theirs in places:
            if exchange == other and meet(shown.kind(exchange), key, theirs):
                raise NotMovableError(
                    f"both queues are bound to the exchange {exchange}, with the keys {key!r} and {theirs!r}: each "
                    "publish goes to both, and would run twice",
                    f"an exchange or a routing key for {new} that no message for {old} has",
                    "change it in task_queues, or unbind the one that no client declares any more",
                )


def _differences(source: dict[str, Any], target: dict[str, Any]) -> list[str]:
    have, own = settings_of(target), settings_of(source)
    found = []
    for name, value in sorted(own.items()):
        if name == "queue-type" or (name not in OTHERWISE and have.get(name) == value):
            continue
        text = OTHERWISE.get(name, "add it to its queue_arguments with x- before it, or to a policy that names it")
        if (name, value) == ("overflow", "reject-publish-dlx"):
            text = "a quorum queue knows drop-head and reject-publish"
        found.append(f"{name}={value}: {text}")
    if "max-priority" not in own:
        found.append("no max-priority: the old queue ignores priorities; a quorum queue serves the highest first")
    if not source.get("durable", True):
        found.append("not durable: a quorum queue is, with all its messages")
    return found

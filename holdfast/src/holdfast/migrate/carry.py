"""What both moves share: how messages are published, what a run says of itself, and the options of the commands."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import click
from celery.utils.quorum_queues import detect_quorum_queues

from holdfast.outbox.workflow import due_in
from holdfast.publisher import NotAcknowledged, Policy, Publisher, delay

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from kombu import Connection, Queue

    from holdfast.publisher import Message

WINDOW = 500  # messages under way: what a killed run may publish twice
NAMED = 100  # refused messages that are named one by one
EVERY = 2.0  # seconds between two lines of progress
WAITS = 3  # exit code: nothing is wrong, and something is left


@dataclass
class Result:
    """What a run did.

    Attributes:
        moved: messages by old queue.
        resumed: those that were taken before and may have been published or run then; so many run twice at most.
        refused: how many were not taken.
        reasons: the first of these, each with its key, task and reason.
        stopped: why the run ended early; None when it did not.
    """

    moved: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    refused: int = 0
    reasons: list[dict[str, str]] = field(default_factory=list)
    stopped: str | None = None

    def refuse(self, key: str, task_id: str, reason: str) -> None:
        """Note a message that stays where it is.

        Args:
            key: where that is.
            task_id: its task, or a dash.
            reason: why.
        """
        self.refused += 1
        if len(self.reasons) < NAMED:
            self.reasons.append({"key": key, "task_id": task_id, "reason": reason})

    def failed(self, key: str, task_id: str, error: Exception) -> None:
        """Note a message that was published and not confirmed: it is refused, or it ends the run.

        Args:
            key: where it is.
            task_id: its task, or a dash.
            error: how its publish ended.
        """
        if isinstance(error, NotAcknowledged) and error.retryable:
            self.stopped = str(error)  # the next ones would fail like it
        else:
            self.refuse(key, task_id, str(error))

    def summary(self) -> dict[str, Any]:
        """Return it as values of JSON."""
        return {**vars(self), "moved": dict(self.moved)}

    def named(self) -> list[str]:
        """Return the lines about what is refused."""
        lines = [f"refused            {one['task_id']} in {one['key']}: {one['reason']}" for one in self.reasons]
        return lines + ([f"refused  {self.refused:>8}  in all"] if self.refused > len(self.reasons) else [])


def publisher(app: Celery[Any], connection: Connection) -> Publisher:
    """Return a publisher that declares the delays of RabbitMQ when a message needs them.

    Args:
        app: the application whose messages it publishes.
        connection: to its broker; a publisher never connects it itself.
    """
    made = Publisher(connection, Policy.from_settings(app.conf))
    made.expired = app.conf.get("holdfast_expired_queue")
    made.topology[delay.ANY_KEY] = delay.entities(app)
    return made


def in_time(app: Celery[Any], queue: Queue, message: Message) -> Message:
    """Let a message with an ETA wait in the broker for what is left, where Celery lets new ones wait there.

    Args:
        app: the application.
        queue: where the message goes.
        message: with exchange and key of that queue.

    Raises:
        ValueError: the ETA cannot be read.
    """
    exchange: Any = queue.exchange
    waits = message.headers.get("eta") and exchange and exchange.type != "direct"
    if not waits or not detect_quorum_queues(app, "amqp")[0]:
        return message
    return due_in(replace(message, exchange=delay.EXCHANGE))


def progress() -> Callable[[Result], None]:
    """Return what prints a line on stderr, at most every :data:`EVERY` seconds."""
    begin = said = monotonic()

    def say(result: Result) -> None:
        nonlocal said
        now, moved = monotonic(), result.moved.total()
        if now - said >= EVERY:
            said = now
            click.echo(f"{moved} moved, {moved / (now - begin):.0f}/s", err=True)

    return say


def names(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Read what a command was given as OLD=NEW.

    Raises:
        click.BadParameter: one of them is something else.
    """
    pairs = [one.partition("=") for one in value]
    if wrong := ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]:
        raise click.BadParameter(f"{', '.join(wrong)}: write OLD=NEW")
    return {old: new for old, _, new in pairs}


def amqp_app(path: str, app: Celery[Any], hint: str) -> None:
    """Refuse an application whose broker is not RabbitMQ.

    Args:
        path: its name.
        app: the application.
        hint: the next step.

    Raises:
        click.ClickException: its broker is another one.
    """
    broker = app.connection_for_write()
    if broker.transport.driver_type != "amqp":
        raise click.ClickException(
            f"found:   the application {path!r} has {broker.as_uri()} as its broker\n"
            "allowed: amqp:// or amqps://, where the tasks are to go\n"
            f"next:    {hint}"
        )

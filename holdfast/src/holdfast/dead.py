"""``holdfast dead``: look into the dead-letter queue, replay what is in it, or discard it with a reason.

Looking takes nothing out: messages are fetched without acknowledgement and handed back by ``basic.nack``, which, unlike
``basic.reject`` or a closed channel, does not count towards the delivery limit (RabbitMQ 4.3). A message leaves the
queue only after its replay is confirmed, or after its discarded copy is on disk.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from amqp import Message, spec
from amqp.exceptions import AccessRefused, AMQPError, ChannelError, MessageNacked
from kombu.exceptions import OperationalError
from typing_extensions import override

from holdfast import audit
from holdfast.operators import OPERATOR_URL, PATIENCE, load_app, operator_urls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from celery import Celery

    Connect: TypeAlias = Callable[[], AbstractContextManager["Office"]]

CONFIRM_TIMEOUT = 10.0  # seconds; above a leader election, which takes about 3
REPLAY_HEADER = "holdfast-replay"  # how often an operator has replayed the message; survives Celery's retries
DEATH_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
DEATH_PROPERTIES = ("expiration",)  # a replayed task must not expire on its way


@dataclass(frozen=True)
class Letter:
    """A message of the dead-letter queue, not acknowledged yet."""

    raw: Any

    @property
    def headers(self) -> dict[str, Any]:
        """The message's headers."""
        return dict(self.raw.properties.get("application_headers") or {})

    @property
    def body(self) -> bytes:
        """The message's body as it came."""
        body = self.raw.body
        return body if isinstance(body, bytes) else str(body).encode()

    @property
    def task_id(self) -> str:
        """The task's id; for a message that is no task its correlation id, or a dash."""
        return str(self.headers.get("id") or self.raw.properties.get("correlation_id") or "-")

    @property
    def death(self) -> dict[str, Any]:
        """The last death that RabbitMQ has recorded; empty in a queue that nothing died into."""
        deaths = self.headers.get("x-death") or [{}]
        return dict(deaths[0])

    def summary(self) -> dict[str, Any]:
        """Return what a list shows, as values of JSON."""
        died = self.death.get("time")
        return {
            "task_id": self.task_id,
            "task": self.headers.get("task", "-"),
            "queue": self.death.get("queue", self.raw.delivery_info["routing_key"]),
            "reason": self.death.get("reason", "unrouted"),
            "time": died.replace(tzinfo=timezone.utc).isoformat() if died else None,
            "retries": self.headers.get("retries"),
            "replays": self.headers.get(REPLAY_HEADER, 0),
            "args": self.headers.get("argsrepr"),
            "kwargs": self.headers.get("kwargsrepr"),
        }

    def record(self) -> dict[str, Any]:
        """Return the whole message as values of JSON; a body that is no text is base64 under ``body_base64``."""
        try:
            body = {"body": self.body.decode()}
        except UnicodeDecodeError:
            body = {"body_base64": b64encode(self.body).decode()}
        properties = {key: value for key, value in self.raw.properties.items() if key != "application_headers"}
        return self.summary() | {"properties": properties, "headers": self.headers} | body

    def target(self, app: Celery) -> tuple[str, str]:
        """Return exchange and routing key of the queue that it died in; an unrouted one goes where it was sent."""
        queue = app.amqp.queues.get(self.death.get("queue", ""))
        if queue is not None:  # not the recorded exchange: after a countdown that is one of the delay's own
            return queue.exchange.name, queue.routing_key
        if self.death:
            return str(self.death.get("exchange", "")), str((self.death.get("routing-keys") or [""])[0])
        return str(self.raw.delivery_info["exchange"]), str(self.raw.delivery_info["routing_key"])

    def revived(self) -> Message:
        """Return a copy to publish: without the marks of its death, with a fresh count of retries and no expiry."""
        headers = {key: value for key, value in self.headers.items() if not key.startswith(DEATH_HEADERS)}
        headers[REPLAY_HEADER] = int(headers.get(REPLAY_HEADER, 0)) + 1
        if "retries" in headers:
            headers |= {"retries": 0, "expires": None, "eta": None}
        properties = {
            key: value
            for key, value in self.raw.properties.items()
            if key not in {"application_headers", *DEATH_PROPERTIES}
        }
        return Message(self.body, application_headers=headers, **properties)


class NotReplayedError(Exception):
    """The broker does not take the copy of one letter."""


class Post:
    """A separate connection for copies: a refusal ends it, and the letters that were fetched stay fetched.

    Args:
        connection: a kombu connection to the broker; a clone of it is opened for the first copy.
    """

    def __init__(self, connection: Any) -> None:
        self._model = connection
        self._own: Any = None

    def send(self, copy: Message, exchange: str, key: str) -> None:
        """Publish a copy and wait for the broker's confirm.

        Raises:
            NotReplayedError: the broker refuses it, or no queue is bound for it.
        """
        if self._own is None:
            self._own = self._model.clone()
            self._own.ensure_connection(**PATIENCE)
        try:
            self._own.default_channel.basic_publish(
                copy, exchange=exchange, routing_key=key, mandatory=True, confirm_timeout=CONFIRM_TIMEOUT
            )
        except (ChannelError, MessageNacked) as error:
            self.close()  # a late answer to this copy must not be taken for the answer to the next one
            raise NotReplayedError(str(error) or "the broker answered no") from error

    def close(self) -> None:
        """Drop the connection, if there is one."""
        own, self._own = self._own, None
        if own is not None:
            own.collect()


@dataclass(frozen=True)
class Office:
    """A connection to the broker and the queue whose letters are handled."""

    app: Celery
    channel: Any
    queue: str
    post: Post

    def letters(self) -> Iterator[Letter]:
        """Fetch the letters one by one, each once; what is not acknowledged returns when the office closes."""
        count = self.channel.queue_declare(self.queue, passive=True).message_count
        for _ in range(count):
            raw = self.channel.basic_get(self.queue)
            if raw is None:
                return
            yield Letter(raw)

    def replay(self, letter: Letter, queue: str | None) -> None:
        """Publish the letter again, wait for the broker's confirm, and only then take it out of the queue.

        Raises:
            NotReplayedError: no queue took it, or the broker refuses it; the letter stays, and others can go on.
            amqp.exceptions.ConnectionError: the broker is away; the letter stays.
        """
        if queue is None:
            exchange, key = letter.target(self.app)
        else:
            exchange, key = self.app.amqp.queues[queue].exchange.name, self.app.amqp.queues[queue].routing_key
        self.post.send(letter.revived(), exchange, key)
        self.channel.basic_ack(letter.raw.delivery_tag)

    def discard(self, letter: Letter, reason: str, keep: Path) -> None:
        """Append the letter and the reason to the file ``keep``, wait for the disk, then take it out of the queue."""
        record = {"discarded_at": datetime.now(timezone.utc).isoformat(), "discarded_because": reason} | letter.record()
        with keep.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.channel.basic_ack(letter.raw.delivery_tag)
        audit.discarded(self.app, letter.headers)


@contextmanager
def open_office(app: Celery, queue: str, urls: str | None = None) -> Iterator[Office]:
    """Connect to the first broker node that answers; at the end hand back all letters that are left.

    Args:
        app: the application.
        queue: whose letters are handled.
        urls: of the brokers with another login than the application's, joined by semicolons; None for those of
            ``HOLDFAST_OPERATOR_URL``, and where that is not set the application's own.

    Raises:
        click.ClickException: the broker cannot be reached, refuses the login, has no such queue, or is Redis; or the
            variable is wrong.
    """
    connection = app.connection_for_write(urls or operator_urls())
    if connection.transport.driver_type != "amqp":
        raise click.ClickException("Redis as the broker has no dead-letter queue (docs/explanation/redis-broker.md).")
    with connection:
        try:
            connection.ensure_connection(**PATIENCE)
            post = Post(connection)
            channel: Any = connection.channel()
            try:
                yield Office(app, channel, queue, post)
            finally:
                post.close()
                if channel.is_open:
                    channel.send_method(spec.Basic.Nack, "Lbb", (0, True, True))  # 0 and multiple: all that are left
        except AccessRefused as error:
            raise click.ClickException(
                f"{error}\nfound:   the broker refuses this login the queue {queue}\n"
                "allowed: a user who may read it and publish tasks: Holdfast's is `operator`\n"
                "next:    in a terminal, load login-operator.env after app.env (on a host, as root, from "
                "/etc/holdfast; on the local stack: docker compose run --rm operator holdfast dead list)\n"
                f"         for Django's admin site, set {OPERATOR_URL} in the web process to the HOLDFAST_BROKER_URL "
                "of that file; it can then also delete dead letters and stop workers"
            ) from error
        except (AMQPError, MessageNacked, OperationalError, OSError) as error:
            raise click.ClickException(
                f"The broker says: {error or type(error).__name__}. What was not reported as done is unchanged."
            ) from error


class Chosen(click.Command):
    """A command on some of the messages: a line that does not say which ones, or needs a yes, ends before it runs."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            UsageError: neither or both of ``--task-id`` and ``--all`` are there, or ``--yes`` is needed and missing.
        """
        rest = super().parse_args(ctx, args)
        if ctx.resilient_parsing:  # a shell that completes a line
            return rest
        if (ctx.params["task_id"] is None) == (not ctx.params["everything"]):
            raise click.UsageError("Say which messages: either --task-id ID or --all.", ctx)
        if ctx.params.get("yes") is False:
            raise click.UsageError("Nothing discarded. Add --yes to confirm.", ctx)
        return rest


@click.group()
@click.option(
    "-A", "--app", "path", envvar="HOLDFAST_APP", show_envvar=True, required=True, help="The Celery application."
)
@click.option("--queue", default="dead", show_default=True, help="The queue to work on: dead or unrouted.")
@click.pass_context
def command(context: click.Context, path: str, queue: str) -> None:
    """Show the messages of the dead-letter queue; replay or discard them.

    HOLDFAST_OPERATOR_URL, if it is set, names the brokers with a login that may do so; otherwise the application's own
    login needs the right.
    """
    context.obj = lambda: open_office(load_app(path), queue)  # opened late: a help text needs no broker


@command.command(name="list")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Show at most this many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(connect: Connect, limit: int, *, as_json: bool) -> None:
    """List the messages, in the order in which the queue delivers them."""
    with connect() as office:
        letters = list(islice(office.letters(), limit + 1))
        for letter in letters[:limit]:
            summary = letter.summary()
            if as_json:
                click.echo(json.dumps(summary))
            else:
                click.echo("{task_id}  {task}  {queue}  {reason}  {time}  {args}".format_map(summary))
        if len(letters) > limit:
            click.echo(f"There are more than {limit} messages: raise --limit to see the rest.", err=True)
        if not letters and not as_json:
            click.echo(f"The queue {office.queue} is empty.")


@command.command()
@click.option("--task-id", required=True, help="Id of the task.")
@click.pass_obj
def show(connect: Connect, task_id: str) -> None:
    """Print a message with its headers and body as JSON."""
    with connect() as office:
        for letter in _chosen(office, task_id):
            click.echo(json.dumps(letter.record(), indent=2, default=str))


@command.command(cls=Chosen)
@click.option("--task-id", help="Id of the task.")
@click.option("--all", "everything", is_flag=True, help="All messages that are in the queue now.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many.")
@click.option("--to", "target", help="Send it to this queue instead of the one it died in.")
@click.pass_obj
def replay(connect: Connect, /, task_id: str | None, limit: int | None, target: str | None, **_: bool) -> None:
    """Publish messages again, with all their attempts; each leaves the queue when the broker has confirmed the copy."""
    done, refused = 0, 0
    with connect() as office:
        if target is not None and target not in office.app.amqp.queues:
            raise click.BadParameter(f"{target!r} is not a queue; allowed:  {', '.join(office.app.amqp.queues)}.")
        for letter in islice(_chosen(office, task_id), limit):
            try:
                office.replay(letter, target)
            except NotReplayedError as error:
                refused += 1
                click.echo(f"not replayed {letter.task_id}: {error}", err=True)
            else:
                done += 1
                click.echo(f"replayed {letter.task_id}")
    click.echo(f"{done} replayed.")
    if refused:
        raise click.ClickException(
            f"{refused} stay in the queue, the broker does not take them. Create the queue or exchange that is named "
            "above, or choose another queue with --to, and replay again."
        )


@command.command(cls=Chosen)
@click.option("--task-id", help="Id of the task.")
@click.option("--all", "everything", is_flag=True, help="All messages that are in the queue now.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many.")
@click.option("--reason", required=True, help="Why; it is kept with the messages.")
@click.option(
    "--keep",
    type=click.Path(dir_okay=False, path_type=Path),
    default="discarded.jsonl",
    show_default=True,
    help="File that the messages are appended to.",
)
@click.option("--yes", is_flag=True, help="Required, because no command can undo this.")
@click.pass_obj
def discard(
    connect: Connect,
    /,
    task_id: str | None,
    limit: int | None,
    reason: str,
    keep: Path,
    **_: bool,
) -> None:
    """Delete messages from the queue; each is written to a file first."""
    done = 0
    with connect() as office:
        for letter in islice(_chosen(office, task_id), limit):
            office.discard(letter, reason, keep)
            done += 1
            click.echo(f"discarded {letter.task_id}")
    click.echo(f"{done} discarded, kept in {keep}.")


def _chosen(office: Office, task_id: str | None) -> Iterator[Letter]:
    """Yield the letters of one task; of all tasks when none is named."""
    found = False
    for letter in office.letters():
        if task_id in (None, letter.task_id):
            found = True
            yield letter
    if not found and task_id is not None:
        raise click.ClickException(f"No message of the task {task_id} in the queue {office.queue}.")

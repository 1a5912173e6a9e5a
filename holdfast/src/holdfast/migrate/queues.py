"""``holdfast migrate-queues``: empty queues of RabbitMQ into quorum queues of another name, as often as needed."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from time import sleep
from typing import TYPE_CHECKING, Any

import click
from amqp.exceptions import AccessRefused, AMQPError
from kombu.exceptions import OperationalError

from celery_doctor.rules import NotAllowedError
from holdfast.migrate.carry import WAITS, Result, amqp_app, names, progress, publisher
from holdfast.migrate.queue_move import QueueMover, waiting
from holdfast.migrate.queue_plan import NotMovableError, Plan, Shown, plan
from holdfast.operators import PATIENCE, load_app, operator_urls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery
    from kombu import Connection

HEARTBEAT = 60  # seconds; after two of them the broker gives back what a host held that is gone
ANSWER: dict[str, Any] = {"read_timeout": 30}  # seconds that the broker has for each answer; py-amqp waits for ever
LATE = 6.0  # seconds; RabbitMQ tells its management API every 5 s what is unacknowledged


@dataclass
class Left:
    """What is still in the old queues.

    Attributes:
        waiting: messages, by old queue.
        unacked: what workers hold, by old queue.
        workers: consumers, by old queue.
    """

    waiting: Counter[str] = field(default_factory=Counter)
    unacked: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All messages that are there."""
        return self.waiting.total() + self.unacked.total()

    def summary(self) -> dict[str, Any]:
        """Return it as values of JSON."""
        return {name: dict(value) for name, value in vars(self).items()} | {"total": self.total}


@click.command()
@click.argument("pairs", nargs=-1, required=True, callback=names, metavar="OLD=NEW...")
@click.option(
    "-A", "--app", "path", envvar="HOLDFAST_APP", show_envvar=True, required=True,
    help="The Celery application, which describes the new queues.",
)  # fmt: skip
@click.option(
    "--management", "url", envvar="HOLDFAST_MANAGEMENT_URL", show_envvar=True, required=True,
    help="http://user:password@host:15672; in the variable, `ps` does not show it.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only count and compare.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
@click.pass_context
def command(context: click.Context, /, path: str, pairs: dict[str, str], url: str, **chosen: bool) -> None:
    """Move the messages of RabbitMQ's classic queues to quorum queues.

    Run it as often as you like, while publishers and workers run: a message leaves the old queue when the new one has
    confirmed it. A new queue that is not there is declared as the application describes it. No binding of the old queue
    is changed, and no queue is deleted.

    HOLDFAST_OPERATOR_URL, if it is set, names the brokers with a login that may do so; otherwise the application's own
    login needs the right.

    Exit code 0: nothing is left in the old queues; 1: a queue or message could not be moved, and is named; 3: messages
    wait for the next step that is printed.
    """
    app = load_app(path)
    amqp_app(path, app, "from Redis, holdfast migrate-broker moves the tasks")
    with app.connection_for_write(operator_urls(), heartbeat=HEARTBEAT, transport_options=ANSWER) as connection:
        look = _looking(app, url, connection)
        try:
            connection.ensure_connection(**PATIENCE)
            plans = _plans(app, look(), pairs)
            result = Result()
            if not chosen["dry_run"]:
                result = _move(app, connection, plans)
                sleep(LATE)
            left = _count(connection, look(), plans)
        except AccessRefused as error:
            raise click.ClickException(
                f"found:   {error}\n"
                "allowed: a login that may read the old queues, write to the exchanges of the new ones, and configure "
                "new queues that are not there yet\n"
                "next:    set HOLDFAST_OPERATOR_URL to one; the messages are where they were"
            ) from error
        except (AMQPError, OperationalError, NotAllowedError, OSError) as error:
            raise click.ClickException(
                f"found:   the broker says: {error or type(error).__name__}\n"
                "allowed: brokers and management API that answer, with logins that they know\n"
                "next:    run it again; nothing is lost, what was not confirmed is in the old queue"
            ) from error
    if chosen["as_json"]:
        click.echo(json.dumps({"plans": _told(plans), "result": result.summary(), "left": left.summary()}))
    else:
        click.echo(show(plans, result, left, dry=chosen["dry_run"]))
    context.exit(1 if result.refused or result.stopped else WAITS if left.total else 0)


def _looking(app: Celery[Any], url: str, connection: Connection) -> Callable[[], Shown]:
    """Return what looks at the management API anew."""
    try:
        Shown(app, url, connection.virtual_host)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--management") from error
    return lambda: Shown(app, url, connection.virtual_host)


def _plans(app: Celery[Any], shown: Shown, pairs: Mapping[str, str]) -> list[Plan]:
    """Look at all queues before the first one is moved.

    Raises:
        click.ClickException: one of them cannot be moved.
    """
    if chained := sorted({new for old, new in pairs.items() if new in pairs and new != old}):
        raise click.UsageError(f"{', '.join(chained)}: to be filled and to be emptied; run the command twice")
    found, wrong = [], []
    for old, new in pairs.items():
        try:
            found.append(plan(app, shown, old, new))
        except NotMovableError as error:
            wrong.append(f"{old}={new}\n{error}")
    if wrong:
        raise click.ClickException("nothing is moved:\n" + "\n".join(wrong))
    return found


def _move(app: Celery[Any], connection: Connection, plans: list[Plan]) -> Result:
    with closing(publisher(app, connection)) as to:
        mover = QueueMover(app, connection, to, progress())
        for one in plans:
            if not mover.result.stopped:
                mover.run(one)
    return mover.result


def _count(connection: Connection, shown: Shown, plans: list[Plan]) -> Left:
    left = Left()
    for old in (one.old for one in plans):
        left.waiting[old], left.workers[old] = waiting(connection.default_channel, old)
        left.unacked[old] = int((shown.queue(old) or {}).get("messages_unacknowledged", 0))
    return left


def _told(plans: list[Plan]) -> list[dict[str, Any]]:
    return [
        {"old": one.old, "new": one.new.name, "exchange": one.place[0], "routing_key": one.place[1],
         "declares": one.declares, "differs": one.differs}
        for one in plans
    ]  # fmt: skip


def show(plans: list[Plan], result: Result, left: Left, *, dry: bool) -> str:
    """Return what happened, what is left, what differs, and the next step.

    Args:
        plans: what was looked at.
        result: what was moved.
        left: what is there now.
        dry: nothing was to be moved.
    """
    lines = []
    for one in plans:
        exchange, key = one.place
        way = f"exchange {exchange}, key {key}" if exchange else "the default exchange"
        what = ("will declare" if dry else "declared") if one.declares else "found"
        lines.append(f"queue     {one.old} -> {one.new.name} ({what}; by {way})")
        lines += [f"differs   {text}" for text in one.differs]
    lines += [f"moved    {number:>8}  {old}" for old, number in sorted(result.moved.items())]
    if result.resumed:
        lines.append(f"resumed  {result.resumed:>8}  of a run or worker that did not end: so many run twice at most")
    lines += result.named()
    for old in sorted(left.waiting):
        lines.append(f"waiting  {left.waiting[old]:>8}  {old}")
        lines.append(f"unacked  {left.unacked[old]:>8}  {old}, at {left.workers[old]} consumers")
    return "\n".join([*lines, f"next:    {_next(result, left, dry=dry)}"])


def _next(result: Result, left: Left, *, dry: bool) -> str:
    steps = (
        (result.stopped, f"RabbitMQ took no more ({result.stopped}); see to it and run this again"),
        (result.refused, "see to what is refused and run this again"),
        (dry and left.total, "see to what differs, then run this without --dry-run"),
        (left.waiting.total(), "run this again; what comes after a run is from a publisher or worker of the old queue"),
        (left.unacked.total(), "stop the workers of the old queues with SIGTERM, then run this again"),
    )
    done = "nothing is left; when no client uses the old queues any more: rabbitmqctl delete_queue OLD -e -u"
    return next((step for holds, step in steps if holds), done)

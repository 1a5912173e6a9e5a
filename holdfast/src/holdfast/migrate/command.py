"""``holdfast migrate-broker``: empty a Redis broker into the RabbitMQ of the application, as often as needed."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import click
from kombu.exceptions import KombuError
from redis.exceptions import LockError, RedisError

from holdfast.migrate.carry import WAITS, Result, amqp_app, names, progress
from holdfast.migrate.count import Left, count
from holdfast.migrate.message import Targets
from holdfast.migrate.move import Mover
from holdfast.migrate.old import OldBroker
from holdfast.operators import load_app


def _options(_: click.Context, __: click.Parameter, value: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter('it is no JSON object; for instance {"global_keyprefix": "shop:"}')
    return found


@click.command()
@click.option(
    "-A", "--app", "path", envvar="HOLDFAST_APP", show_envvar=True, required=True,
    help="The Celery application, with RabbitMQ as its broker.",
)  # fmt: skip
@click.option(
    "--from", "url", envvar="HOLDFAST_OLD_BROKER_URL", show_envvar=True, required=True,
    help="The Redis broker, as broker_url was; in the variable, `ps` does not show it.",
)  # fmt: skip
@click.option(
    "--from-options", "options", default="{}", callback=_options, metavar="JSON",
    help="What broker_transport_options was there: global_keyprefix, master_name, sep, ...",
)  # fmt: skip
@click.option(
    "--queue", "names", multiple=True, callback=names, metavar="OLD=NEW", help="A queue's new name; repeatable."
)
@click.option("--skip", multiple=True, metavar="QUEUE", help="Another application's queue: leave it; repeatable.")
@click.option("--reverse-priority", is_flag=True, help="The application counts priorities the other way round now.")
@click.option("--workers-stopped", is_flag=True, help="No old worker runs any more: move what they held, too.")
@click.option(
    "--ignore-clients", is_flag=True, help="Clients that still wait on this Redis are of another application."
)
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
@click.pass_context
def command(context: click.Context, /, path: str, url: str, options: dict[str, Any], **chosen: Any) -> None:
    """Move the tasks that are left on a Redis broker to RabbitMQ.

    Run it as often as you like, while producers and workers run. A task leaves Redis when RabbitMQ has confirmed it. A
    run that was killed is taken up by the next one, which says how many tasks may run twice for it.

    A task that an old worker holds stays until you have stopped all old workers and say so with --workers-stopped.

    Exit code 0: no task is left on Redis; 1: a task could not be moved, and is named; 3: tasks wait for the next step
    that is printed.
    """
    app = load_app(path)
    amqp_app(path, app, "set broker_url to RabbitMQ, and give the Redis broker with --from")
    targets = Targets(app, chosen["names"], frozenset(chosen["skip"]), turned=chosen["reverse_priority"])
    try:
        with closing(_open(url, options)) as old:
            result = Result()
            if not chosen["dry_run"]:
                result = _move(old, targets, chosen["workers_stopped"], chosen["ignore_clients"])
            left = count(old, targets)
    except (KombuError, RedisError, OSError) as error:
        busy = "another run is at work, or was killed within the last 30 seconds"
        raise click.ClickException(
            f"found:   {busy if isinstance(error, LockError) else f'the Redis broker says: {error}'}\n"
            "allowed: one run at a time, with a login that may read and change all keys of the broker\n"
            "next:    run it again; nothing is lost, what was claimed lies on Redis"
        ) from error
    if chosen["as_json"]:
        click.echo(json.dumps({"result": result.summary(), "left": left.summary()}))
    else:
        click.echo(show(result, left, targets))
    context.exit(1 if result.refused or result.stopped else WAITS if left.total else 0)


def _open(url: str, options: dict[str, Any]) -> OldBroker:
    if not url.startswith(("redis://", "rediss://", "sentinel://", "redis+socket://")):
        raise click.BadParameter("allowed: redis://, rediss://, redis+socket:// or sentinel://", param_hint="--from")
    return OldBroker(url, options)


def _move(old: OldBroker, targets: Targets, workers_stopped: bool, trusted: bool) -> Result:
    running = old.workers() if workers_stopped and not trusted else None
    if running:
        raise click.ClickException(
            f"found:   {len(running)} clients wait for tasks on Redis: {', '.join(running)}\n"
            "allowed: --workers-stopped when no old worker runs; what they hold would run twice\n"
            "next:    stop them (SIGTERM, and wait for their end); where a host is gone, CLIENT KILL ADDR ends the "
            "connection that is left of it; --ignore-clients, when they are another application's"
        )
    mover = Mover(old, targets, progress())
    mover.run(workers_stopped=workers_stopped)
    return mover.result


def show(result: Result, left: Left, targets: Targets) -> str:
    """Return what happened, what is left, why, and the next step."""
    lines = [f"moved    {number:>8}  {queue}" for queue, number in sorted(result.moved.items())]
    if result.resumed:
        lines.append(f"resumed  {result.resumed:>8}  of an earlier run that did not end: so many run twice at most")
    lines += result.named()
    lines += [f"waiting  {number:>8}  {_way(queue, targets)}" for queue, number in sorted(left.waiting.items())]
    lines += [f"unacked  {number:>8}  {queue}" for queue, number in sorted(left.unacked.items())]
    if left.eta:
        lines.append(f"         {left.eta:>8}  of the unacknowledged wait for their time")
    if left.held:
        lines.append(f"claimed  {left.held:>8}  in holdfast.moving:* on Redis, where no worker takes them")
    return "\n".join([*lines, f"next:    {_next(result, left)}"])


def _way(queue: str, targets: Targets) -> str:
    found = targets.queue(queue)
    return f"{queue} -> {found.name if found else 'no such queue in the application'}"


def _next(result: Result, left: Left) -> str:
    workers = ", ".join(left.workers or [])
    where = ", ".join(left.homeless)
    steps = (
        (result.stopped, f"RabbitMQ took no more ({result.stopped}); see to it and run this again"),
        (result.refused, "see to what is refused and run this again; it tries the claimed ones first"),
        (where, f"say with --queue OLD=NEW where {where} is now, or leave it with --skip"),
        (
            left.waiting or left.held,
            "run this without --dry-run; what comes after a run is from a producer or an old worker",
        ),
        (
            left.unacked and workers,
            f"stop the old workers ({workers}) with SIGTERM, then run this again",
        ),
        (left.unacked, "when no old worker runs any more, run this with --workers-stopped"),
    )
    done = "nothing is left; when no producer and no worker uses the Redis broker any more, it can go"
    return next((step for holds, step in steps if holds), done)

"""``holdfast relay``: publishes what is in the outbox. Start as many as you like; one is enough for most.

One pass is claim (committed), publish, settle (committed). A relay that is killed anywhere in it loses nothing: before
the publish the rows are due again when the lease ends, after it they are published once more, with the same task ids.
"""

from __future__ import annotations

import logging
import signal
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING

import click
from kombu.exceptions import EncodeError
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from holdfast.dead import load_app
from holdfast.logs import format_as_chosen
from holdfast.outbox import store
from holdfast.outbox.cli import open_engine
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.send import sender
from holdfast.outbox.workflow import Workflow, due_in
from holdfast.publisher import NotAcknowledged
from holdfast.results import reason, transient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery
    from sqlalchemy import Engine

    from holdfast.outbox.send import Send

logger = logging.getLogger(__name__)

POISON = (  # they lie in the row or in the application, not in a server that is away
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    NotImplementedError,
    EncodeError,
)

ERROR_LENGTH = 2000  # characters of a reason that are kept
TROUBLE_PAUSE = 2.0  # seconds; when nothing gets through, claiming the whole backlog would only burn attempts


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did, in rows."""

    published: int
    kept: int


@dataclass(frozen=True, slots=True)
class Relay:
    """Moves rows from the outbox to the broker.

    Attributes:
        app: the Celery app that the tasks belong to; its result store hears about chords.
        engine: the database of the outbox.
        send: publishes messages; see :data:`holdfast.outbox.send.Send`.
        metrics: counts what happens.
        batch: rows of one pass.
        lease: seconds for which a pass owns its rows; longer than publishing takes, else another relay repeats them.
    """

    app: Celery
    engine: Engine
    send: Send
    metrics: Metrics
    batch: int = 500
    lease: float = 60.0

    def run(self, stop: Event, poll: float) -> None:
        """Work until ``stop`` is set; a pass that has begun is finished, which takes as long as a publish may.

        Args:
            stop: ends the loop.
            poll: seconds between two looks at an empty outbox.
        """
        pause = 0.0
        while not stop.wait(pause):
            try:
                done = self.once()
            except DBAPIError as error:
                logger.warning("the outbox cannot be read or written, retrying: %s", error)
                pause = TROUBLE_PAUSE
                continue
            self.metrics.passed()
            pause = 0.0 if done.published else TROUBLE_PAUSE if done.kept else poll

    def once(self) -> Pass:
        """Make one pass.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is away; what was published stays in the outbox and is repeated.
        """
        with self.engine.begin() as connection:
            rows = store.claim(connection, self.batch, self.lease)
        failures: dict[int, store.Failure] = {}
        ready: dict[int, Workflow] = {}
        away: store.Failure | None = None  # the result store does not answer: it is asked once in a pass, not per row
        for row in rows:
            opened = _read(row)
            if isinstance(opened, Workflow) and opened.chords:
                opened = away or self._announce(opened)
                away = opened if isinstance(opened, store.Failure) and not opened.refused else away
            if isinstance(opened, Workflow):
                ready[row.id] = opened
            else:
                failures[row.id] = opened
        outcomes = iter(self.send([message for workflow in ready.values() for message in workflow.messages]))
        for row_id, workflow in ready.items():
            errors = list(islice(outcomes, len(workflow.messages)))
            self.metrics.acknowledged.inc(errors.count(None))
            if failure := _failure(workflow, errors):
                failures[row_id] = failure
        self._settle(rows, failures)
        return Pass(published=len(rows) - len(failures), kept=len(failures))

    def _announce(self, workflow: Workflow) -> Workflow | store.Failure:
        """Tell the result store about the chords."""
        try:
            workflow.prepare(self.app)
        except Exception as error:  # noqa: BLE001 - kept in the row
            healthy = isinstance(error, RedisError) and not transient(error)  # it answers, and refuses this
            return store.Failure(_text(reason(error)), refused=healthy or isinstance(error, POISON))
        return workflow

    def _settle(self, rows: Sequence[store.Row], failures: dict[int, store.Failure]) -> None:
        if not rows:
            return
        with self.engine.begin() as connection:  # alone: a failure that cannot be noted must not publish these again
            store.remove(connection, [row.id for row in rows if row.id not in failures])
        with self.engine.begin() as connection:
            for row in rows:
                if row.id in failures:
                    store.postpone(connection, row, failures[row.id])
        for error, count in Counter(failure.error for failure in failures.values()).items():
            logger.warning("%d rows stay in the outbox: %s", count, error)
            self.metrics.failed.inc(count)


def _read(row: store.Row) -> Workflow | store.Failure:
    """Return what a row holds, its delays from now on; one bad row must not stop the others."""
    try:
        workflow = Workflow.loads(row.workflow)
        messages = [due_in(message) for message in workflow.messages]
        for message in messages:
            message.encode()  # fails here, not in the middle of the batch
    except Exception as error:  # noqa: BLE001 - kept in the row
        return store.Failure(_text(repr(error)), refused=True)
    return replace(workflow, messages=messages)


def _failure(workflow: Workflow, errors: list[Exception | None]) -> store.Failure | None:
    """Return why a row stays, None when the broker has all of it."""
    rest = [message for message, error in zip(workflow.messages, errors, strict=True) if error]
    found = [error for error in errors if error]
    if not found:
        return None
    remaining = replace(workflow, messages=rest, chords=[]) if len(rest) < len(errors) else None
    return store.Failure(
        _describe(found[0]),
        refused=not all(isinstance(error, NotAcknowledged) and error.retryable for error in found),
        rest=remaining.dumps() if remaining else None,
    )


def _describe(error: Exception) -> str:
    """Return the reason without the task's id, so that equal reasons look equal."""
    return _text(f"{type(error).__name__}: {error.detail}" if isinstance(error, NotAcknowledged) else repr(error))


def _text(words: str) -> str:
    """Return a reason that every database stores: PostgreSQL takes no NUL, and nobody reads a whole body."""
    return words.replace("\x00", "\\x00")[:ERROR_LENGTH]


@click.command()
@click.option(
    "-A", "--app", "path", envvar="HOLDFAST_APP", show_envvar=True, required=True, help="The Celery application."
)
@click.option(
    "--database-url",
    envvar="HOLDFAST_OUTBOX_URL",
    required=True,
    help="SQLAlchemy URL of the database with the outbox; `ps` does not show it when given as HOLDFAST_OUTBOX_URL.",
)
@click.option("--metrics", default="127.0.0.1:9539", show_default=True, help="Address of /metrics and /healthz.")
@click.option("--batch", default=500, show_default=True, type=click.IntRange(1), help="Rows per pass.")
@click.option(
    "--lease", default=60.0, show_default=True, help="Seconds until the rows of a killed relay are due again."
)
@click.option("--poll", default=0.5, show_default=True, help="Seconds between two checks of an empty outbox.")
def command(*, path: str, database_url: str, metrics: str, batch: int, lease: float, poll: float) -> None:
    """Publish the tasks that are in the outbox; SIGTERM ends it after the pass that has begun."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    format_as_chosen(logging.getLogger())
    app = load_app(path)
    # The rows of a chord are tried again by the relay; Celery's own twenty attempts would hold up all others.
    app.conf.result_backend_transport_options |= {"retry_policy": {"max_retries": 1}}
    engine = open_engine(database_url)
    host, _, port = metrics.rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter(f"{metrics!r} is not an address; allowed is HOST:PORT, for instance 127.0.0.1:9539.")
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watched = Metrics(engine, patience=2 * lease)
    try:
        logger.info("metrics on %s:%d", host, watched.serve(host, int(port)))
    except OSError as error:
        raise click.ClickException(f"Cannot listen on {metrics}: {error}. Choose another --metrics address.") from error
    Relay(app, engine, sender(app), watched, batch, lease).run(stop, poll)
    logger.info("stopped")

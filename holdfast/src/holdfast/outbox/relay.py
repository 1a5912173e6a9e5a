"""The relay publishes what is in the outbox. Start as many as you like; one is enough for most.

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
from typing import TYPE_CHECKING, Any

import click
from kombu.exceptions import EncodeError
from redis.exceptions import RedisError

from holdfast.logs import format_as_chosen
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.rows import Failure, Row, Rows
from holdfast.outbox.send import sender
from holdfast.outbox.workflow import Workflow, due_in
from holdfast.publisher import NotAcknowledged
from holdfast.results import reason, transient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from holdfast.outbox.send import Send

logger = logging.getLogger(__name__)

METRICS = "127.0.0.1:9539"  # where a relay serves /metrics and /healthz
BATCH = 500  # rows of one pass
LEASE = 60.0  # seconds until the rows of a killed relay are due again
POLL = 0.5  # seconds between two looks at an empty outbox

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
        rows: the outbox.
        send: publishes messages; see :data:`holdfast.outbox.send.Send`.
        metrics: counts what happens.
        batch: rows of one pass.
        lease: seconds for which a pass owns its rows; longer than publishing takes, else another relay repeats them.
    """

    app: Celery[Any]
    rows: Rows
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
            except self.rows.errors as error:
                logger.warning("the outbox cannot be read or written, retrying: %s", error)
                pause = TROUBLE_PAUSE
                continue
            self.metrics.passed()
            pause = 0.0 if done.published else TROUBLE_PAUSE if done.kept else poll

    def once(self) -> Pass:
        """Make one pass.

        Raises:
            Exception: one of ``rows.errors``: the database is away; what was published stays in the outbox and is
                repeated.
        """
        return self.publish(self.rows.claim(self.batch, self.lease))

    def publish(self, rows: Sequence[Row]) -> Pass:
        """Publish rows that nobody else publishes meanwhile, and settle them.

        Args:
            rows: claimed ones.

        Raises:
            Exception: as :meth:`once`.
        """
        failures: dict[int, Failure] = {}
        ready: dict[int, Workflow] = {}
        away: Failure | None = None  # the result store does not answer: it is asked once in a pass, not per row
        for row in rows:
            opened = _read(row)
            if isinstance(opened, Workflow) and opened.chords:
                opened = away or self._announce(opened)
                away = opened if isinstance(opened, Failure) and not opened.refused else away
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

    def _announce(self, workflow: Workflow) -> Workflow | Failure:
        """Tell the result store about the chords."""
        try:
            workflow.prepare(self.app)
        except Exception as error:  # noqa: BLE001 - kept in the row
            healthy = isinstance(error, RedisError) and not transient(error)  # it answers, and refuses this
            return Failure(_text(reason(error)), refused=healthy or isinstance(error, POISON))
        return workflow

    def _settle(self, rows: Sequence[Row], failures: dict[int, Failure]) -> None:
        if not rows:
            return
        self.rows.remove([row.id for row in rows if row.id not in failures])  # alone: must not depend on the next one
        if failures:
            self.rows.postpone([(row, failures[row.id]) for row in rows if row.id in failures])
        for error, count in Counter(failure.error for failure in failures.values()).items():
            logger.warning("%d rows stay in the outbox: %s", count, error)
            self.metrics.failed.inc(count)


def _read(row: Row) -> Workflow | Failure:
    """Return what a row holds, its delays from now on; one bad row must not stop the others."""
    try:
        workflow = Workflow.loads(row.workflow)
        messages = [due_in(message) for message in workflow.messages]
        for message in messages if len(messages) > 1 else ():
            message.encode()  # of a workflow nothing is sent if a part of it cannot be
    except Exception as error:  # noqa: BLE001 - kept in the row
        return Failure(_text(repr(error)), refused=True)
    return replace(workflow, messages=messages)


def _failure(workflow: Workflow, errors: Sequence[Exception | None]) -> Failure | None:
    """Return why a row stays, None when the broker has all of it."""
    rest = [message for message, error in zip(workflow.messages, errors, strict=True) if error]
    found = [error for error in errors if error]
    if not found:
        return None
    remaining = replace(workflow, messages=rest, chords=[]) if len(rest) < len(errors) else None
    return Failure(
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


def serve(app: Celery, rows: Rows, metrics: str, *, batch: int, lease: float, poll: float) -> None:
    """Relay until SIGTERM or SIGINT; call it in the main thread of a process that does nothing else.

    Args:
        app: the Celery app that the tasks belong to.
        rows: the outbox.
        metrics: HOST:PORT of ``/metrics`` and ``/healthz``.
        batch: rows of one pass.
        lease: seconds until the rows of a killed relay are due again.
        poll: seconds between two looks at an empty outbox.

    Raises:
        click.ClickException: a number is not above 0; the address of the metrics is none, taken or not ours, or its
            certificate cannot be read.
    """
    for name, value in {"batch": batch, "lease": lease, "poll": poll}.items():
        if not value > 0:
            raise click.BadParameter(f"--{name} is {value}; allowed is a number above 0.")
    host, _, port = metrics.rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter(f"{metrics!r} is not an address; allowed is HOST:PORT, for instance 127.0.0.1:9539.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    format_as_chosen(logging.getLogger())
    # The rows of a chord are tried again by the relay; Celery's own twenty attempts would hold up all others.
    app.conf.result_backend_transport_options |= {"retry_policy": {"max_retries": 1}}
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watched = Metrics(rows, patience=2 * lease)
    try:
        logger.info("metrics on %s:%d", host, watched.serve(host, int(port)))
    except OSError as error:
        raise click.ClickException(f"Cannot listen on {metrics}: {error}. Choose another --metrics address.") from error
    Relay(app, rows, sender(app), watched, batch, lease).run(stop, poll)
    logger.info("stopped")

"""The outbox of the benchmark: a schema of its own in the local stack's PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, make_url, text

from bench import apps, cluster
from holdfast import outbox
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.relay import BATCH, LEASE, Relay
from holdfast.outbox.send import sender
from holdfast.outbox.store import EngineRows

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEMA = "bench"
_FILL = 1000  # rows of one transaction of :meth:`Relayed.prepare`


def _engine(schema: str = _SCHEMA) -> Engine:
    url = make_url(cluster.environment()["WEBHOOKS_DATABASE_URL"])
    return create_engine(url.update_query_dict({"options": f"-csearch_path={schema}"}))


def drop() -> None:
    """Delete the schema with its rows, if it is there."""
    with _engine("public").begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE"))


def _made() -> Engine:
    """Return the engine of a new, empty outbox."""
    drop()
    with _engine("public").begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {_SCHEMA}"))
    engine = _engine()
    outbox.metadata.create_all(engine)
    return engine


def enqueued() -> Callable[[int], None]:
    """``outbox.enqueue``, each task in a transaction of its own; the rows stay."""
    task: Any = apps.make(layer=True).tasks["bench.nothing"]
    engine = _made()

    def run(count: int) -> None:
        for n in range(count):
            with engine.begin() as connection:
                outbox.enqueue(connection, task.s(n, key="value"))

    return run


class Relayed:
    """One relay; from committed rows to acknowledged messages and deleted rows."""

    def __init__(self) -> None:
        app = apps.make(layer=True)
        self._task: Any = app.tasks["bench.nothing"]
        self._engine = _made()
        rows = EngineRows(self._engine)
        self._relay = Relay(app, rows, sender(app), Metrics(rows, patience=2 * LEASE), BATCH, LEASE)

    def prepare(self, count: int) -> None:
        """Commit the rows.

        Args:
            count: of them.
        """
        for begin in range(0, count, _FILL):
            with self._engine.begin() as connection:
                for n in range(begin, min(count, begin + _FILL)):
                    outbox.enqueue(connection, self._task.s(n, key="value"))

    def __call__(self, count: int) -> None:
        """Relay them.

        Args:
            count: of them.
        """
        while count > 0:
            count -= self._relay.once().published

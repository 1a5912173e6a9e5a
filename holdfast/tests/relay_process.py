"""A relay in a process of its own, for tests that kill it: ``relay_process.py URL LOG BARRIER``.

It publishes by appending task ids to the file LOG. At the step BARRIER it prints the step's name and waits to be
killed; with the barrier ``none`` it works until the outbox is empty and exits.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery
from sqlalchemy import event

from holdfast.outbox import store
from holdfast.outbox.cli import open_engine
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.publisher import Message, NotAcknowledged

STEPS = ("claiming", "claimed", "half published", "published", "settling", "settled")
LEASE = 1.0  # seconds, of a relay that is to be killed
LONG = 300.0  # of one that is not: no other takes its rows over, however slow the machine is


class Barriers:
    """The steps of a pass, in their order; the process stops for good at the one that was asked for."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    def reach(self, step: str) -> None:
        """Stop here when this is the wanted step."""
        if step == self._wanted:
            print(step, flush=True)
            signal.pause()


def main(url: str, log: str, wanted: str) -> None:
    """Run the relay."""
    barriers = Barriers(wanted)
    engine = open_engine(url)
    published = False

    def send(messages: Sequence[Message]) -> list[NotAcknowledged | None]:
        nonlocal published
        barriers.reach("claimed")
        with Path(log).open("a", encoding="utf-8") as file:
            for number, message in enumerate(messages):
                if number == len(messages) // 2:
                    barriers.reach("half published")
                file.write(f"{message.task_id} {os.getpid()}\n")
                file.flush()
        barriers.reach("published")
        published = True
        return [None] * len(messages)

    rows, lease = store.EngineRows(engine), LEASE if wanted in STEPS else LONG
    relay = Relay(Celery(set_as_current=False), rows, send, Metrics(rows, patience=60), batch=10, lease=lease)
    event.listen(engine, "commit", lambda _: barriers.reach("settling" if published else "claiming"))
    while True:
        relay.once()
        if published:
            barriers.reach("settled")
        with engine.connect() as connection:
            if not store.backlog(connection).waiting:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Faults of the load itself: more of it, and clients that die; they end by themselves, and with the drill."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from drill.faults.base import SLACK, Plan, fault
from drill.faults.record import Bound

if TYPE_CHECKING:
    import random

    from drill.targets.stack import Publishers, Stack

TIMES = 10  # of the usual rate
ENOUGH = 0.5  # part of that burst which proves it: it takes a while to start a publisher
SECONDS = 10.0
CALLERS = 4
DIED = 200  # connections that prove a churn of SECONDS
NAME = "drill-churn"
PAUSE = 0.05  # seconds after a refused connection: while no broker answers, the threads would take the processor


def _go_on(why: str) -> list[Bound]:
    return [
        Bound(stream, 3 + SLACK, "apply", f"{why}; 3 for a busy machine + {SLACK}") for stream in ("publish", "work")
    ]


def _publishers(stack: Stack) -> Publishers:
    if stack.publishers is None:
        raise LookupError("no publisher runs")
    return stack.publishers


@fault("publish-burst", f"publish at {TIMES} times the rate for {SECONDS:g} s", "", "standard soak", takes="")
def _burst(stack: Stack, _rng: random.Random) -> Plan:
    pool = _publishers(stack)
    usual = pool.rate() * SECONDS  # while the burst lasts, its own publishers count, too
    started: list[str] = []

    def proof() -> str:
        times = pool.acknowledged(started) / usual
        return f"{times:.1f} times as much as usual was published beside it" if times >= TIMES * ENOUGH else ""

    def healed() -> str:
        return "" if set(started) & set(pool.names()) else f"{', '.join(started)} ended"

    return Plan(
        pool.names(),
        lambda: started.extend(pool.burst(TIMES - 1, SECONDS)),
        proof,
        [],
        healed,
        _go_on("the queues have room"),
        SECONDS,
    )


class Churn:
    """Opens connections to the brokers and lets each die as that of a killed process, for some seconds."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.died = 0

    def start(self) -> None:
        """Begin; a broker that refuses a connection is asked again."""
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    @property
    def over(self) -> bool:
        """Whether all of it has ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with self._app.connection_for_write() as client:
                client.transport_options = {"client_properties": {"connection_name": NAME}}
                try:
                    client.connect()
                    client.default_channel  # noqa: B018 - a publisher has one
                    client.connection.transport.sock.close()  # without a word to the broker
                except client.connection_errors:  # a broker may be down, or die in the middle of this
                    time.sleep(PAUSE)
                    continue
                client.collect()
            with self._lock:
                self.died += 1


@fault(
    "connection-churn",
    f"open connections for {SECONDS:g} s, each with a channel, and let their clients die",
    "rabbit",
    "standard soak",
    takes="",
)
def _churn(stack: Stack, _rng: random.Random) -> Plan:
    churn = Churn(stack.app)

    def proof() -> str:
        return f"{churn.died} connections were opened and died" if churn.died >= DIED and churn.over else ""

    def healed() -> str:
        names = [one.get("user_provided_name") for one in stack.management("connections")]
        return "" if NAME in names else "the brokers keep none of their connections"

    return Plan(
        [node.name for node in stack.tier("rabbit")],
        churn.start,
        proof,
        [],
        healed,
        _go_on("every other connection stays"),
        SECONDS,
    )

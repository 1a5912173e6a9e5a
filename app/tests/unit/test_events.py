"""The events of tasks travel together; they are there soon, and at the end of the worker at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from celery import Celery

from holdfast.events import GATHER, GATHERED, Dispatcher, Events, SideRoad

if TYPE_CHECKING:
    from collections.abc import Callable


class Road:
    """Stands in for a side road and keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def publish(self, body: Any, *_: object, **__: object) -> bool:
        self.sent.append(body)
        return True

    def close(self) -> None:
        """Nothing is open."""


class Timer:
    """Stands in for the main loop's timer."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, Callable[[], None]]] = []

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        self.entries.append((seconds, call))


def dispatcher(road: Road, timer: Timer) -> Dispatcher:
    app = Celery("events", broker="memory://", set_as_current=False)
    return Dispatcher(cast("SideRoad", road), timer, app=app, hostname="w", enabled=True, groups=None)


def test_events_of_tasks_wait_for_each_other_and_others_do_not() -> None:
    road, timer = Road(), Timer()
    one = dispatcher(road, timer)
    for kind in ("task-received", "task-started", "task-succeeded"):
        one.send(kind, uuid="1")
    assert road.sent == []
    ((seconds, flush),) = timer.entries
    flush()
    assert seconds == GATHER
    assert [[event["type"] for event in batch] for batch in road.sent] == [
        ["task-received", "task-started", "task-succeeded"]
    ]
    one.send("worker-heartbeat")
    assert road.sent[1]["type"] == "worker-heartbeat"
    one.send("task-received", uuid="2")
    assert len(timer.entries) == 2, "the next ones are gathered again"


def test_a_full_batch_leaves_at_once() -> None:
    road = Road()
    one = dispatcher(road, Timer())
    for number in range(GATHERED):
        one.send("task-received", uuid=str(number))
    assert [len(batch) for batch in road.sent] == [GATHERED]


def test_the_end_of_the_worker_leaves_no_event_behind() -> None:
    road = Road()
    one = dispatcher(road, Timer())
    one.send("task-succeeded", uuid="1")
    step: Any = object.__new__(Events)
    step.groups = None
    step.shutdown(SimpleNamespace(event_dispatcher=one, road=road))
    assert len(road.sent) == 1

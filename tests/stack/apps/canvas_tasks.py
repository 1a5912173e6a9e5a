"""The tasks of ``canvases``; with ``CANVAS_INBOX`` their effects go through the inbox in that database."""

from __future__ import annotations

import json
import os
import time
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from canvases import CANVASES
from celery import chord
from scratch import app, note
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from holdfast import inbox
from holdfast.outbox import store
from holdfast.outbox.workflow import Workflow
from holdfast.publisher.recorder import recording
from holdfast.results import get

if TYPE_CHECKING:
    from collections.abc import Callable

INBOX = os.environ.get("CANVAS_INBOX")


def effect(function: Callable[..., Any]) -> Any:
    """Make a task of a function; its body runs through the inbox when there is one."""

    @wraps(function)
    def run(self: Any, *args: Any) -> Any:
        if not INBOX or self.request.called_directly:  # map, starmap and chunks call it: one message, no id of its own
            return function(*args)
        engine = create_engine(INBOX, connect_args={"timeout": 30})
        with Session(engine) as session, session.begin():
            return inbox.once(session, self.request.id, lambda: function(*args))

    return app.task(bind=True, name=f"canvas.{function.__name__}")(run)


@effect
def add(x: int, y: int) -> int:
    return x + y


@effect
def mul(x: int, y: int) -> int:
    return x * y


@effect
def xsum(values: list[int]) -> int:
    return sum(values)


@effect
def flat(values: list[Any]) -> int:
    return sum(sum(value) if isinstance(value, list) else value for value in values)


@app.task(name="canvas.fail")
def fail(what: object) -> None:
    raise ValueError(what)


@app.task(bind=True, name="canvas.say")
def say(self: Any, what: object) -> None:
    note("said", what, self)


@app.task(name="canvas.errback")
def errback(_request: Any, error: BaseException, _traceback: object) -> None:
    kind = "chord" if type(error).__name__ == "ChordError" else error.args[0]
    say.delay(f"error-{kind}")


@app.task(bind=True, name="canvas.header")
def header(self: Any, name: str) -> Any:
    return (self.request.headers or {}).get(name)


@app.task(bind=True, name="canvas.stamps")
def stamps(self: Any, _: object) -> Any:
    return self.request.stamps["monitor"]


@app.task(bind=True, name="canvas.becomes_chain")
def becomes_chain(self: Any, value: int) -> None:
    raise self.replace(add.s(value, 1) | mul.s(2))


@app.task(bind=True, name="canvas.becomes_chord")
def becomes_chord(self: Any, value: int) -> None:
    raise self.replace(chord([add.s(value, 1), add.s(value, 1)], xsum.s()))


def publish(way: str, url: str, ends: dict[str, Any]) -> dict[str, Any]:
    """Publish every canvas and return the results; an error that keeps one from being published is its end."""
    engine = create_engine(url, connect_args={"timeout": 30})
    found: dict[str, Any] = {}
    for name, canvas in CANVASES.items():
        try:
            signature = canvas.build(tasks)
            if way == "outbox":
                with recording(app) as tape:  # what outbox.enqueue does, keeping the result
                    found[name] = signature.clone().apply_async()
                with engine.begin() as connection:
                    store.put(connection, Workflow(found[name].id, tape.messages, tape.chords))
            else:
                found[name] = signature.apply_async()
        except Exception as error:  # noqa: BLE001 - the test of this canvas shows it
            ends[name] = {"error": type(error).__name__, "text": str(error)}
    return found


def answers(way: str, url: str, seconds: float) -> None:
    """Publish every canvas, wait for all, and print how each ended."""
    until = time.monotonic() + seconds
    ends: dict[str, Any] = {}
    for name, result in publish(way, url, ends).items():
        try:
            ends[name] = {"answer": get(result, max(until - time.monotonic(), 0.1))}
        except Exception as error:  # noqa: BLE001 - the test of this canvas compares it
            ends[name] = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(ends))


tasks = SimpleNamespace(
    add=add,
    mul=mul,
    xsum=xsum,
    flat=flat,
    fail=fail,
    say=say,
    errback=errback,
    header=header,
    stamps=stamps,
    becomes_chain=becomes_chain,
    becomes_chord=becomes_chord,
)

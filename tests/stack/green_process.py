"""Publishes from many greenlets: ``green_process.py eventlet|gevent|threads URL QUEUE GREENLETS EACH``.

With descriptors above 1023, where ``select.select`` of the standard library ends. Afterwards it publishes to brokers
that fail at different steps and counts the sockets that remain. Prints one JSON object.
"""

# ruff: noqa: E402 - a monkey patch comes before every other import

from __future__ import annotations

import sys

LIBRARY = sys.argv[1]
if LIBRARY == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif LIBRARY == "gevent":
    from gevent import monkey

    monkey.patch_all()

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from celery import Celery

from holdfast.publisher import NotAcknowledged, install, publish_many

DEADLINE = 20.0


def make_app(url: str, queue: str, deadline: float = DEADLINE) -> Celery:
    """Return an application that publishes to a queue."""
    app = Celery("green", broker=url, set_as_current=False)
    app.conf.update(holdfast_publish_deadline=deadline, holdfast_publish_connect=2.0, task_default_queue=queue)
    install(app)
    return app


def in_parallel(app: Celery, queue: str, greenlets: int, each: int) -> tuple[list[str], list[str], float]:
    """Publish from as many greenlets; return the acknowledged ids, the errors, and the longest pause of another one."""
    acknowledged: list[str] = []
    errors: list[str] = []
    pauses: list[float] = []
    running = True

    def publish() -> None:
        for _ in range(each):
            task_id = uuid.uuid4().hex
            try:
                app.send_task("green.task", task_id=task_id, queue=queue)
                acknowledged.append(task_id)
            except NotAcknowledged as error:
                errors.append(str(error))

    def tick() -> None:
        while running:
            before = time.monotonic()
            time.sleep(0.01)
            pauses.append(time.monotonic() - before)

    ticker = threading.Thread(target=tick)
    ticker.start()
    threads = [threading.Thread(target=publish) for _ in range(greenlets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running = False
    ticker.join()
    return acknowledged, errors, max(pauses)


def sockets() -> int:
    """Return how many sockets this process has open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found += descriptor.readlink().name.startswith("socket:")
        except OSError:
            continue
    return found


def after_failures(queue: str) -> int:
    """Publish to brokers that are not there, hang up, or never greet; return how many more sockets remain."""
    server = socket.create_server(("127.0.0.1", 0), backlog=64)

    def hang_up() -> None:
        while True:
            try:
                peer = server.accept()[0]
                peer.recv(8)
                peer.close()
            except OSError:
                return

    threading.Thread(target=hang_up, daemon=True).start()
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)
    apps = [make_app(f"amqp://127.0.0.1:{port}//", queue, 0.5) for port in (1, server.getsockname()[1])]
    apps.append(make_app(f"amqp://127.0.0.1:{silent.getsockname()[1]}//", queue, 0.5))
    before = sockets()
    for app in apps:
        for _ in range(5):
            try:
                app.send_task("green.task", queue=queue)
            except NotAcknowledged:
                continue
            raise AssertionError("these brokers acknowledge nothing")
    end = time.monotonic() + DEADLINE
    while sockets() > before and time.monotonic() < end:  # the peers hang up a moment later
        time.sleep(0.05)
    return max(0, sockets() - before)


def main(url: str, queue: str, greenlets: str, each: str) -> None:
    app = make_app(url, queue)
    for _ in range(1100):
        os.open(os.devnull, os.O_RDONLY)
    acknowledged, errors, pause = in_parallel(app, queue, int(greenlets), int(each))
    outcomes = publish_many(app, [app.signature("green.task", queue=queue) for _ in range(500)])
    acknowledged += [str(outcome.task_id) for outcome in outcomes if outcome.acknowledged]
    errors += [str(outcome.error) for outcome in outcomes if not outcome.acknowledged]
    found = {"acknowledged": acknowledged, "errors": errors, "pause": pause, "left": after_failures(queue)}
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[2:])

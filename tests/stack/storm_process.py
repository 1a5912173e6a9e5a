"""Publishes from threads while signal handlers, finalizers and logging handlers publish in the middle of it.

Usage: ``storm_process.py URL QUEUE KIND SECONDS``. Prints one JSON object: the ids that were acknowledged, how many of
them were published from inside, the errors, and the longest call in seconds.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import uuid
from itertools import count
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery

from holdfast.publisher import NotAcknowledged, install

DEADLINE = 30.0
THREADS = 6
NESTED = 3  # handlers that may interrupt each other
CHILDREN = 50  # as many as in the seconds of one run, however long a stalled machine makes them


def nothing() -> None:
    """What the task would do."""


class Storm:
    """What is published, and how it went."""

    def __init__(self, url: str, queue: str) -> None:
        self.app = Celery("storm", broker=url, set_as_current=False)
        self.app.conf.update(holdfast_publish_deadline=DEADLINE, task_default_queue=queue)
        self.queue = queue
        self.acknowledged: list[str] = []
        self.errors: list[str] = []
        self.slowest = 0.0
        self.inside = 0
        self.interrupted = 0
        self.depth = threading.local()
        self.stop = False
        self.count = count()
        install(self.app)
        self.task = self.app.task(name="storm.task", shared=False)(nothing)
        self.app.finalize()  # Celery makes tasks when they are first needed, which a handler must not interrupt

    def publish(self) -> None:
        """Publish one task: by its name, as many calls before, or as the first or second of a kind."""
        task_id, started = uuid.uuid4().hex, time.monotonic()
        depth = getattr(self.depth, "value", 0)
        try:
            self.depth.value = depth + 1
            number = next(self.count)
            if number % 3 == 0:
                self.app.send_task("storm.task", task_id=task_id, queue=self.queue)
            else:  # more kinds than are remembered
                limit: dict[str, Any] = {"time_limit": 10_000 + number % 400} if number % 3 == 1 else {}
                self.task.apply_async(task_id=task_id, queue=self.queue, **limit)
        except NotAcknowledged as error:
            self.errors.append(str(error))
        else:
            self.acknowledged.append(task_id)
            self.inside += depth > 0
        finally:
            self.depth.value = depth
            if depth == 0:
                self.slowest = max(self.slowest, time.monotonic() - started)

    def publish_inside(self, *_: object) -> None:
        """Publish from a handler that has interrupted something."""
        if getattr(self.depth, "value", 0) < NESTED:
            try:
                self.publish()
            except SoftTimeLimitExceeded:
                self.interrupted += 1

    def until_stopped(self) -> None:
        while not self.stop:
            self.publish()

    def end(self) -> None:
        self.stop = True

    # -- the kinds

    def alarm(self) -> None:
        signal.signal(signal.SIGALRM, self.publish_inside)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)

    def forks(self) -> None:
        left = iter(range(CHILDREN))
        forking = False

        def handler(*_: object) -> None:
            nonlocal forking
            # A fork in the middle of a fork waits for ever for a lock of concurrent.futures, which the outer one holds.
            if forking or getattr(self.depth, "value", 0) >= NESTED or next(left, None) is None:
                return
            forking = True
            child = os.fork()
            forking = False
            if child == 0:
                self.acknowledged.clear()
                self.publish()
                os.write(report[1], "".join(f"{one}\n" for one in self.acknowledged).encode())
                os._exit(0)

        report = self.report = os.pipe()
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.1)

    def soft_limit(self) -> None:
        def handler(*_: object) -> None:
            if getattr(self.depth, "value", 0):
                raise SoftTimeLimitExceeded

        signal.signal(signal.SIGUSR1, handler)
        signal.signal(signal.SIGALRM, self.publish_inside)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.01)

        def strike() -> None:
            while not self.stop:
                time.sleep(0.01)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        threading.Thread(target=strike, daemon=True).start()

    def finalizers(self) -> None:
        storm = self

        class Last:
            def __init__(self) -> None:
                self.circle = self

            def __del__(self) -> None:
                if not storm.stop:
                    storm.publish_inside()

        def litter() -> None:
            while not storm.stop:
                Last()
                time.sleep(0.05)  # each one's publish takes a while

        gc.set_threshold(20)
        threading.Thread(target=litter, daemon=True).start()

    def logs(self) -> None:
        storm = self

        class Publishing(logging.Handler):
            def emit(self, _record: logging.LogRecord) -> None:
                storm.publish_inside()

        logging.getLogger().addHandler(Publishing())
        logging.getLogger().setLevel(logging.DEBUG)


def main(url: str, queue: str, kind: str, seconds: str) -> None:
    faulthandler.dump_traceback_later(float(seconds) + 3 * DEADLINE)  # where it hangs, if it does
    storm = Storm(url, queue)
    storm.publish()
    threading.Timer(float(seconds), storm.end).start()  # before the handlers, which may leave nothing else any time
    getattr(storm, kind)()
    threads = [threading.Thread(target=storm.until_stopped) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    while not storm.stop:
        try:
            storm.publish()
        except SoftTimeLimitExceeded:
            storm.interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in threads:
        thread.join(3 * DEADLINE)
    found: dict[str, Any] = {
        "acknowledged": storm.acknowledged,
        "inside": storm.inside,
        "interrupted": storm.interrupted,
        "errors": storm.errors,
        "slowest": storm.slowest,
        "hanging": sum(thread.is_alive() for thread in threads),
    }
    if kind == "forks":
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
        os.close(storm.report[1])
        with os.fdopen(storm.report[0]) as report:
            children = report.read().split()
        found["acknowledged"] += children
        found["inside"] += len(children)
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

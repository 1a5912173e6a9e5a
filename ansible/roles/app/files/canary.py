"""Publishes a task to each queue of an application and waits for its result: ``canary.py APP SECONDS``.

The task is one that Celery adds to every application and that returns its arguments, so no worker needs to be prepared.
What an application may have set so that a task needs no worker, or leaves no result, does not hold for this one.
"""

from __future__ import annotations

import sys

from celery.app.utils import find_app

TASK = "celery.accumulate"


def main() -> None:
    """Run it; an error names the queue whose task did not come back."""
    name, seconds = sys.argv[1], float(sys.argv[2])
    app = find_app(name)
    app.finalize()
    app.conf.task_always_eager = False
    for queue in app.amqp.queues:
        try:
            sent = app.tasks[TASK].apply_async((queue,), queue=queue, expires=seconds, ignore_result=False)
            sent.get(timeout=seconds)
        except Exception as error:
            raise SystemExit(
                f"found:   {type(error).__name__} ({error}): no result from the queue {queue} after {seconds:g} s\n"
                "allowed: a worker that consumes every queue\n"
                "next:    read the workers' logs; nothing else was stopped"
            ) from error


if __name__ == "__main__":
    main()

"""A child that is forked while another thread uses the application publishes nevertheless."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from holdfast.publisher import install

HELD = {"AsyncResult": Celery, "amqp": Celery, "queues": None, "manager": Connection}


@pytest.mark.parametrize("name", HELD)
def test_a_child_does_not_wait_for_a_lock_of_another_thread(name: str) -> None:
    app: Any = Celery("forks", broker="amqp://nobody@127.0.0.1:1//", set_as_current=False)
    install(app)
    kind: Any = HELD[name] or type(app.amqp)
    descriptor = next(vars(base)[name] for base in kind.__mro__ if name in vars(base))
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with descriptor.lock:
            taken.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(60)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)  # ends it if it waits
        with descriptor.lock:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join(60)
    assert status == 0, f"the child ended by the signal {os.WTERMSIG(status)}"

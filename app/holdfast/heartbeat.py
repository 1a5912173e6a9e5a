"""The step of the worker's main loop that writes its heartbeat file and asks the broker about its queues."""

from __future__ import annotations

from time import time
from typing import Any

from amqp import spec
from celery import bootsteps
from celery.worker import state

from holdfast.metrics import processes
from holdfast.pulse import Pulse, Queue, own_name

INTERVAL = 5.0  # seconds


class Heartbeat(bootsteps.StartStopStep):
    """Writes a :class:`holdfast.pulse.Pulse` from a timer of the main loop: no file, no loop.

    The broker is asked with a passive declaration on the consuming connection. Nobody waits for the answer, so a frozen
    node or a queue without majority costs the loop nothing; the answer's age tells. It proves more than an open socket:
    a node cut off from the majority keeps its clients connected, hands them nothing, and cannot answer this.
    """

    def __init__(self, c: Any) -> None:
        super().__init__(c)
        self.pulse = Pulse(own_name(str(c.hostname)), "worker")
        processes.show(self.pulse)
        self._timer: Any = None
        self._channel: Any = None
        self._waiting: list[str] = []

    def connecting(self) -> None:
        """Note that the worker has no connection."""
        self.pulse.enter("connecting")
        self.pulse.write()

    def start(self, c: Any) -> None:
        """Begin with a fresh connection."""
        self.stop(c)
        now = time()
        self.pulse.queues = {queue.name: Queue(now, consumers=1) for queue in c.task_consumer.queues}
        self.pulse.starved = None
        if c.connection.transport.driver_type == "amqp":
            self._channel = c.connection.channel()
            self._channel._callbacks[spec.Queue.DeclareOk] = self._answered
        self._timer = c.timer.call_repeatedly(INTERVAL, self._beat, (c,))
        self.pulse.enter("consuming")
        self.pulse.write()

    def stop(self, c: Any) -> None:
        """Stop asking; the connection is gone or going."""
        if self._timer is not None:
            c.timer.cancel(self._timer)
        self._timer = self._channel = None
        self._waiting = []

    shutdown = stop

    def _beat(self, c: Any) -> None:
        pulse, received = self.pulse, sum(state.total_count.values())
        pulse.queues = {queue.name: pulse.queues.get(queue.name, Queue(time())) for queue in c.task_consumer.queues}
        pulse.running = len(state.reserved_requests)
        idle = received == pulse.received and not pulse.running and not state.scheduled_requests
        if idle and any(queue.messages for queue in pulse.queues.values()):
            pulse.starved = pulse.starved or time()
        else:
            pulse.starved = None
        pulse.received = received
        pulse.write()
        if self._channel is None:  # Redis as the broker: nobody to ask
            pulse.queues = {name: Queue(time(), consumers=1) for name in pulse.queues}
        elif not self._waiting:
            for name in pulse.queues:
                self._waiting.append(name)
                self._channel.send_method(spec.Queue.Declare, "BsbbbbbF", (0, name, True, *[False] * 4, None))

    def _answered(self, name: str, messages: int, consumers: int) -> None:
        if name in self._waiting:
            self._waiting.remove(name)
        if name in self.pulse.queues:
            known = time() if consumers else self.pulse.queues[name].answered
            self.pulse.queues[name] = Queue(known, messages, consumers)

"""The step of the worker's main loop that writes its heartbeat file and asks the broker about its queues."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from amqp import spec
from celery import bootsteps, signals
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state
from celery.worker.consumer import Control
from celery.worker.pidbox import gPidbox

from holdfast.metrics import processes
from holdfast.pulse import Pulse, Queue, own_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Task
    from kombu import Queue as KombuQueue

INTERVAL = 5.0  # seconds
AGAIN = 10.0  # seconds; a question to a leader that has gone meanwhile is never answered
MARK = 1.0  # seconds between two notes that a task has begun, while the tasks are alike
TASK_LIMIT = 1800.0  # seconds for a task without a time limit: after these RabbitMQ itself takes its message away
LEAVE = 20.0  # seconds; an election takes less, and so does a leader that freezes for 15 s


class Heartbeat(bootsteps.StartStopStep):
    """Writes a :class:`holdfast.pulse.Pulse` from a timer of the main loop: a loop that hangs writes none.

    The broker is asked two things on the consuming connection, and nobody waits for the answers, so a frozen node or a
    queue without majority costs the loop nothing; the age of the answers shows it. It proves more than an open socket:
    a node cut off from the majority keeps its clients connected and delivers nothing. The worker leaves it.

    - A passive declaration tells whether the queue's leader is there. A leader that is itself cut off does not know.
    - Binding the control queue once more changes nothing, and is answered when a majority of the brokers agrees.

    Where the main loop runs the tasks itself (solo, and a blocking call under gevent or eventlet) no timer fires
    meanwhile. So each task leaves a note when it begins: the loop may stand still for as long as its time limit, which
    nothing else enforces in such a pool.
    """

    def __init__(self, c: Any) -> None:
        super().__init__(c)
        self.received = 0  #: messages that the consumer was handed, whatever became of them
        self.pulse = Pulse(own_name(str(c.hostname)), "worker")
        processes.show(self.pulse)
        self._timer: Any = None
        self._channel: Any = None
        self._waiting: set[str] = set()
        self._asked = self._agreed = self._turned = 0.0
        if isinstance(c.pool, SoloPool):
            # AMQP's own heartbeats come from the main loop, too. After two that are missing the broker closes the
            # connection and hands the task out again, for ever. Celery leaves them out under gevent and eventlet.
            c.amqheartbeat = 0
        if isinstance(c.pool, SoloPool) or getattr(c.pool, "is_green", False):
            signals.task_prerun.connect(self._begun, weak=False)

    def paused(self, queues: Iterable[str]) -> None:
        """Note that queues were cancelled by remote control; it lasts until they are added again or the process ends.

        Args:
            queues: their names.
        """
        now = time()
        self.pulse.paused |= {name: now for name in queues if name not in self.pulse.paused}
        self.pulse.write()

    def resumed(self, queues: Iterable[str]) -> None:
        """Note that queues are consumed from.

        Args:
            queues: their names.
        """
        for name in queues:
            self.pulse.paused.pop(name, None)
            self.pulse.queues.setdefault(name, Queue(time(), consumers=1))
        self.pulse.write()

    def _begun(self, task: Task[Any, Any], **_: object) -> None:
        pulse = self.pulse
        of_message, _soft = task.request.timelimit or (None, None)
        own = of_message or task.time_limit or task.app.conf.task_time_limit or TASK_LIMIT
        limit = max(pulse.limit, float(own))
        if (pulse.task, pulse.limit) != (task.name, limit) or time() - pulse.time >= MARK:
            pulse.task, pulse.limit = str(task.name), limit
            pulse.write()

    def connecting(self) -> None:
        """Note that the worker has no connection."""
        self.pulse.enter("connecting")
        self.pulse.write()

    def start(self, c: Any) -> None:
        """Begin with a fresh connection."""
        self.stop(c)
        now = self._agreed = self._turned = time()
        self.pulse.queues = {queue.name: Queue(now, consumers=1) for queue in c.task_consumer.queues}
        for name in self.pulse.queues:  # Celery keeps a cancelled queue cancelled when it connects again
            self.pulse.paused.pop(name, None)
        self.pulse.starved = None
        if c.connection.transport.driver_type == "amqp":
            self._open(c)
        self._timer = c.timer.call_repeatedly(INTERVAL, self._beat, (c,))
        self.pulse.enter("consuming")
        self.pulse.write()

    def stop(self, c: Any) -> None:
        """Stop asking; the connection is gone or going."""
        if self._timer is not None:
            c.timer.cancel(self._timer)
        self._timer = self._channel = None
        self._waiting = set()

    shutdown = stop

    def _open(self, c: Any) -> None:
        self._channel = c.connection.channel()
        self._channel._callbacks[spec.Queue.DeclareOk] = self._declared
        self._channel._callbacks[spec.Queue.BindOk] = self._bound

    def _beat(self, c: Any) -> None:
        self._leave_out_standstill()
        pulse = self.pulse
        if not state.active_requests:
            pulse.task, pulse.limit = None, 0.0
        pulse.queues = {queue.name: pulse.queues.get(queue.name, Queue(time())) for queue in c.task_consumer.queues}
        pulse.running = len(state.reserved_requests)
        idle = self.received == pulse.received and not pulse.running and not state.scheduled_requests
        if idle and any(queue.messages for queue in pulse.queues.values()):
            pulse.starved = pulse.starved or time()
        else:
            pulse.starved = None
        pulse.received = self.received
        pulse.write()
        if self._channel is None:  # Redis as the broker: nobody to ask
            pulse.queues = {name: Queue(time(), consumers=1) for name in pulse.queues}
        else:
            self._leave_a_broker_that_is_alone()
            self._ask(c)

    def _leave_out_standstill(self) -> None:
        """Count no time in which the main loop stood still: nothing was asked then, and no answer was read."""
        now = time()
        stood = now - self._turned - INTERVAL
        self._turned = now
        if stood < INTERVAL:
            return
        self._agreed += stood
        self._asked += stood
        self.pulse.starved = self.pulse.starved and self.pulse.starved + stood
        for queue in self.pulse.queues.values():
            queue.attended += stood

    def _leave_a_broker_that_is_alone(self) -> None:
        now = time()
        for name, queue in self.pulse.queues.items():
            if now - queue.attended > LEAVE:
                raise ConnectionResetError(f"this broker has known no consumer of {name} for {LEAVE:.0f} s")
        if now - self._agreed > LEAVE:
            raise ConnectionResetError(f"this broker has not reached a majority of the brokers for {LEAVE:.0f} s")

    def _ask(self, c: Any) -> None:
        now = time()
        if self._waiting:
            if now - self._asked < AGAIN:
                return
            self._open(c)  # the broker answers one question of a channel after the other
        self._asked = now
        self._waiting = set(self.pulse.queues)
        for name in self.pulse.queues:
            self._channel.send_method(spec.Queue.Declare, "BsbbbbbF", (0, name, True, *[False] * 4, None))
        inbox = _control_queue(c)
        if inbox:
            self._waiting.add(inbox.name)
            place = (inbox.name, inbox.exchange.name, inbox.routing_key)
            self._channel.send_method(spec.Queue.Bind, "BsssbF", (0, *place, False, None))
        else:
            self._agreed = now  # a worker without remote control has nothing to bind

    def _declared(self, name: str, messages: int, consumers: int) -> None:
        self._waiting.discard(name)
        if name in self.pulse.queues:
            attended = time() if consumers else self.pulse.queues[name].attended
            self.pulse.queues[name] = Queue(attended, messages, consumers)

    def _bound(self) -> None:
        self._agreed = time()
        self._waiting &= self.pulse.queues.keys()


def _control_queue(c: Any) -> KombuQueue | None:
    """Return the queue for remote commands of this connection; None for a worker without them.

    Under gevent and eventlet it belongs to a connection of its own, and is locked for this one.
    """
    boxes = [step.box for step in c.steps if isinstance(step, Control) and step.box.consumer]
    boxes = [box for box in boxes if not isinstance(box, gPidbox)]
    return boxes[0].consumer.queues[0] if boxes else None

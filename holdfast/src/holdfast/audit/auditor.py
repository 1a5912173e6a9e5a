"""Says which acknowledged tasks are unaccounted: nobody has ended them, and nothing that can be asked holds them.

The broker has no index of its messages, and the login of beat may not even count them. So the notes say it all: what
was due before everything that a queue has given out since, or before a worker found the queue empty, has been given
out. A task that was given out and is neither ended nor in the hands of a worker, nor has a result, is lost; or it is a
dead letter, if a worker has returned it before. Such a task is undecided; the operator's ``holdfast where`` decides it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from threading import Thread
from time import sleep, time
from typing import TYPE_CHECKING, Any

from celery.states import READY_STATES
from celery.utils.log import get_logger
from kombu.exceptions import DecodeError

from holdfast.audit import share, store
from holdfast.audit.latest import Latest, Verdict
from holdfast.audit.marks import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery

logger = get_logger(__name__)

AFTER = 600.0  # seconds after its time when a task that has not ended is looked for
SETTLE = 120.0  # seconds after its minute when both notes of a message may be taken out: neither comes again
MARGIN = 60.0  # seconds by which a queue may give out tasks in another order than that of their times
BATCH = 500  # keys in one command
NAMED = 20  # ids in one line of the log


@dataclass
class Auditor:
    """Compares the notes of publishers and workers.

    Args:
        app: the application, whose results are asked.
        client: of the Redis that has the notes; it returns texts, and may read and write all of them.
        after: seconds after its time when a task that has not ended is looked for.

    Attributes:
        waits_for: the queue that kept tasks from being counted at the last look; empty for none.
    """

    app: Celery
    client: Any
    after: float = AFTER
    _since: dict[Mark, float] = field(default_factory=dict)  # open tasks, and since when nothing holds them
    _named: set[Mark] = field(default_factory=set)  # those that were unaccounted at the last look: they stay so
    waits_for: str = field(default="", init=False)

    def look(self, now: float | None = None) -> Verdict:
        """Look once.

        Args:
            now: seconds since the epoch, for tests.

        Raises:
            RedisError: notes or results cannot be read.
        """
        now = time() if now is None else now
        listed = self.client.zrangebyscore(store.BUCKETS, "-inf", now // 60)
        minutes = [int(minute) for minute in listed if minute.isdecimal()]  # whoever may add notes may add anything
        left = self._compare(minutes, now)
        self._forget([minute for minute in minutes if not left[minute] and now - _end(minute) > self.after + SETTLE])
        waiting = [minute for minute in minutes if left[minute]]
        late = [minute for minute in waiting if now - _end(minute) > self.after]
        unheld = self._unheld(late) if late else []
        self._since = {mark: self._since.get(mark, now) for mark in unheld}
        sure = [mark for mark, since in self._since.items() if now - since >= self.after / 10]
        lost, undecided = self._split(sure) if sure else ([], 0)
        self._tell(lost)
        return Verdict(now, len(lost), undecided, now - waiting[0] * 60 if waiting else 0.0)

    def unaccounted(self) -> set[str]:
        """Return the ids of the tasks that the last look counted."""
        return {mark.task_id for mark in self._named}

    # -- the notes

    def _compare(self, minutes: list[int], now: float) -> dict[int, int]:
        """Take out of old enough buckets what has both notes; return how many of each are left."""
        left: dict[int, int] = {}
        for minute in minutes:
            acknowledged, ended = store.key(store.ACKNOWLEDGED, minute), store.key(store.ENDED, minute)
            if now - _end(minute) < SETTLE and now - _end(minute) < self.after:
                left[minute] = len(self.client.sdiff(acknowledged, ended))
                continue
            both = store.key("both", minute)
            with self.client.pipeline(transaction=True) as pipe:
                pipe.sinterstore(both, acknowledged, ended)
                for name in (acknowledged, ended):
                    pipe.sdiffstore(name, name, both)
                    pipe.expire(name, max(1, store.KEEP - int(now - minute * 60)))
                pipe.delete(both)
                answers = pipe.execute()
            left[minute] = answers[1]
        return left

    def _forget(self, minutes: list[int]) -> None:
        if minutes:
            self.client.zrem(store.BUCKETS, *minutes)

    def _members(self, kind: str, minutes: Iterable[int]) -> dict[int, set[str]]:
        return {minute: self.client.smembers(store.key(kind, minute)) for minute in minutes}

    # -- what may hold a task

    def _unheld(self, minutes: list[int]) -> list[Mark]:
        """Return the open tasks of these minutes that neither a queue nor a worker holds, and that have no result."""
        this = int(time() // 60)
        held = set().union(*self._members(store.HELD, range(this - int(store.HELD_FOR // 60), this + 1)).values())
        marks = [
            Mark(minute, member)
            for minute, members in self._members(store.ACKNOWLEDGED, minutes).items()
            for member in sorted(members - held)
        ]
        if not marks:
            return []
        queue, until = self._slowest()
        due = [mark for mark in marks if mark in self._named or _end(mark.minute) <= until]
        self._tell_waiting(queue if len(due) < len(marks) else "", until)
        return self._without_result(due)

    def _slowest(self) -> tuple[str, float]:
        """Return the queue that has come least far, and until when every queue has given out what was due.

        A queue has when a worker has found it empty, or when all of its priorities have given out what was due later.
        """
        empty = dict(self.client.zrange(store.EMPTY, 0, -1, withscores=True))
        passed: dict[str, float] = {}
        for lane, due in self.client.zrange(store.PASSED, 0, -1, withscores=True):
            queue = lane.rpartition(" ")[0]
            passed[queue] = min(due, passed.get(queue, due))
        until = {name: max(empty.get(name, 0.0), passed.get(name, 0.0)) for name in tuple(self.app.amqp.queues)}
        slowest = min(until, key=until.__getitem__)
        return slowest, until[slowest] - MARGIN

    def _without_result(self, marks: list[Mark]) -> list[Mark]:
        """Return those whose task has no final result; note of the others that they have ended."""
        backend: Any = self.app.backend
        ended: list[Mark] = []
        for start in range(0, len(marks), BATCH):
            some = marks[start : start + BATCH]
            values = backend.mget([backend.get_key_for_task(mark.task_id) for mark in some])
            ended += [mark for mark, value in zip(some, values, strict=True) if value and _ready(backend, value)]
        if ended:
            with self.client.pipeline(transaction=False) as pipe:
                store.add(pipe, store.ENDED, ended)
                pipe.execute()
        done = set(ended)
        return [mark for mark in marks if mark not in done]

    def _split(self, marks: list[Mark]) -> tuple[list[Mark], int]:
        """Return the unaccounted tasks, and the number of those that may be dead letters.

        The broker's own dead letters were returned by a worker before. Of the others it was noted that they ended.
        """
        returned = self._members(store.RETURNED, {mark.minute for mark in marks})
        never = [mark for mark in marks if mark.member not in returned[mark.minute]]
        return never, len(marks) - len(never)

    def _tell_waiting(self, queue: str, until: float) -> None:
        """Name the queue that keeps tasks from being counted, once; an empty name for none."""
        if queue and queue != self.waits_for:
            logger.warning(
                "audit: tasks due after %s are not counted yet: since then no worker has found the queue %s empty, "
                "nor received a later task from it",
                datetime.fromtimestamp(max(0.0, until), timezone.utc).isoformat(" ", "minutes"),
                queue,
            )
        self.waits_for = queue

    def _tell(self, lost: list[Mark]) -> None:
        fresh = [mark for mark in lost if mark not in self._named]
        self._named = set(lost)
        if fresh:
            logger.error(
                "audit: %d acknowledged tasks are unaccounted, %d of them since the last look: %s%s",
                len(lost),
                len(fresh),
                ", ".join(mark.task_id for mark in fresh[:NAMED]),
                ", ..." if len(fresh) > NAMED else "",
            )


def _end(minute: int) -> float:
    return (minute + 1) * 60.0


def _ready(backend: Any, value: Any) -> bool:
    try:
        return backend.decode(value)["status"] in READY_STATES
    except (DecodeError, KeyError, TypeError, ValueError):
        return False


def start(app: Celery, client: Callable[[], Any], active: Callable[[], bool]) -> None:
    """Look again and again from a thread, where the application audits tasks.

    Args:
        app: the application.
        client: returns the client for the notes.
        active: says whether this process is the one to look.
    """
    if not share(app):
        return
    auditor = Auditor(app, client(), float(app.conf.get("holdfast_audit_after") or AFTER))

    def run() -> None:
        while True:
            sleep(min(60.0, auditor.after / 10))
            if not active():
                Latest.verdict = None
                continue
            try:
                Latest.verdict = auditor.look()
            except Exception as error:  # noqa: BLE001 - one bad note must not end the audit
                logger.warning("audit: the notes cannot be compared now: %r", error)

    Thread(target=run, name="audit", daemon=True).start()

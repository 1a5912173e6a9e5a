"""The scheduler of celery beat: a tick counts when a broker has it, and only the holder of the lock sends ticks.

Choose it with ``beat_scheduler = "holdfast.beat:Scheduler"``. It is redbeat with these differences:

- Stock schedulers note a tick as done and then publish it; when that fails it is gone. Here it is published first.
  Until it is acknowledged it stays due and is sent again under the same task id, made of the entry's name and the
  scheduled time, so that a copy that arrived after all is recognised.
- Ticks missed meanwhile follow one by one, each with its own scheduled time, as far back as ``holdfast_beat_catch_up``
  (seconds, 3600); older ones are left out with a warning.
- Before each tick the lock is renewed. Who has lost it sends nothing and stands by (redbeat goes on within a pass, and
  exits at the next, redbeat#163); a standby waits inside its ticks, so that its heartbeat shows that it lives.
- Redis commands ride over a failover; redbeat's own retry covers only those outside pipelines.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from celery.utils.log import get_logger
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError
from redis.retry import Retry
from typing_extensions import override

from holdfast import extras
from holdfast.metrics import processes
from holdfast.pulse import Pulse, own_name
from holdfast.results import Patience, SteadyConnection, SteadyTLSConnection

with extras.needed():
    from redbeat import RedBeatScheduler
    from redbeat.schedulers import ensure_conf, get_redis

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

PATIENCE = 20.0  # seconds for a Redis command; a failover takes about 7, the lock lives for 30
CATCH_UP = 3600.0  # seconds
AT_ONCE = 0.01  # seconds; 0 would mean "no opinion" to redbeat


class Scheduler(RedBeatScheduler):
    """redbeat that forgets no tick and never sends one without its lock."""

    lock: Any
    lock_key: str | None

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.pulse = Pulse(own_name("beat"), "beat", state="standby")
        self.pulse.write()
        processes.show(self.pulse)
        _be_patient(app)
        self._first: dict[str, datetime] = {}
        self._held_until = 0.0
        super().__init__(app, **kwargs)
        # redbeat would wait for the lock at the start, without end and without a sign of life
        self.lease_key, self.lock_key = self.lock_key, None
        self.catch_up = timedelta(seconds=float(app.conf.get("holdfast_beat_catch_up", CATCH_UP)))

    @override
    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due if this process holds the lock.

        Returns:
            Seconds until the next call.
        """
        delay = float(self.max_interval)
        try:
            if self._holds_lock():
                delay = float(super().tick(*args, **kwargs))
        except RedisError as error:
            logger.warning("beat: the schedule cannot be read or written now: %r", error)
        self.pulse.enter("active" if monotonic() < self._held_until else "standby")
        self.pulse.write()
        return delay

    @override
    def maybe_due(self, entry: Any, **_: Any) -> float | None:
        """Send one entry if it is due, and note it as done once a broker has acknowledged it.

        Returns:
            Seconds until the entry is to be looked at again.
        """
        due, delay = entry.is_due()
        if not due:
            return float(delay)
        if not self._holds_lock():
            return float(self.max_interval)
        scheduled = self._scheduled(entry)
        self.pulse.write()
        try:
            self._send(entry, scheduled)
        except Exception as error:  # noqa: BLE001 - one tick that cannot be sent must not stop the others
            logger.warning("beat: tick %s of %s is not acknowledged, it stays due: %r", scheduled, entry.name, error)
            return float(self.max_interval)
        self._first.pop(entry.name, None)
        done = self._done(entry, scheduled)
        return AT_ONCE if done.is_due()[0] else float(delay)

    def _send(self, entry: Any, scheduled: datetime) -> None:
        options = {**entry.options}
        options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
        options.setdefault("task_id", str(uuid5(NAMESPACE_URL, f"beat:{entry.name}:{scheduled.isoformat()}")))
        logger.info("beat: sending %s (%s), scheduled for %s", entry.name, entry.task, scheduled)
        task = self.app.tasks.get(entry.task)
        if task:
            task.apply_async(entry.args, entry.kwargs, **options)
        else:
            self.app.send_task(entry.task, entry.args, entry.kwargs, **options)

    def _scheduled(self, entry: Any) -> datetime:
        """Return the time for which a due entry was scheduled; for one that never ran, when that was first noticed."""
        now: datetime = entry.default_now()
        if entry.last_run_at is None:
            return self._first.setdefault(entry.name, now.replace(microsecond=0))
        late = entry.schedule.remaining_estimate(entry.last_run_at)
        return (now + late + timedelta(milliseconds=500)).replace(microsecond=0)

    def _done(self, entry: Any, scheduled: datetime) -> Any:
        now: datetime = entry.default_now()
        if now - scheduled <= self.catch_up:
            return entry.next(last_run_at=scheduled)
        logger.warning("beat: ticks of %s between %s and now are left out: too long ago", entry.name, scheduled)
        return entry.next(last_run_at=now)

    # -- the lock

    def _holds_lock(self) -> bool:
        """Renew the lock, or try to get it; False leaves the work to the other beat."""
        asked = monotonic()
        try:
            if self.lock is None:
                lock = get_redis(self.app).lock(self.lease_key, timeout=self.lock_timeout)
                if not lock.acquire(blocking=False):
                    return False
                self.lock = lock
                logger.info("beat: this process holds the lock and sends the ticks")
            else:
                self.lock.reacquire()
        except (LockError, RedisError) as error:
            if self.lock:
                logger.warning("beat: the lock is lost, standing by: %r", error)
            self.lock = None
            self._held_until = 0.0
            return False
        self._held_until = asked + self.lock_timeout
        return True


def _be_patient(app: Celery) -> None:
    """Give every connection of redbeat a policy that waits for a failover and reads no dead Sentinel twice."""
    ensure_conf(app)
    get_redis(app)
    sentinel = getattr(app, "redbeat_sentinel", None)
    if sentinel and "connection_class" not in sentinel.connection_kwargs:
        kind = SteadyTLSConnection if sentinel.connection_kwargs.pop("ssl", False) else SteadyConnection
        sentinel.connection_kwargs |= {"retry": Patience(PATIENCE, PATIENCE), "connection_class": kind}
        for client in sentinel.sentinels:
            client.set_retry(Retry(NoBackoff(), 0))

"""The scheduler of celery beat: a tick counts when a broker has it, and only the holder of the lock sends ticks.

Choose it with ``beat_scheduler = "holdfast.beat:Scheduler"``. It keeps redbeat's settings and its data in Redis. Where
django-celery-beat is installed, its rows are entries, too (``schedule/rows.py``).

- Stock schedulers note a tick as done and then publish it; when that fails it is gone. Here it is published first.
  Until it is acknowledged it stays due and is sent again under the same task id, made of the entry's name and the
  instant for which it was scheduled, so that a copy that arrived after all is recognised. What no broker will ever take
  is given up: logged, counted, and the entry goes on with its next tick.
- Ticks missed meanwhile follow one by one, each with its own instant, as far back as ``holdfast_beat_catch_up``
  (seconds, 3600). Of older ones only the latest follows, if nothing newer was missed.
- Before each tick the lock is renewed. A beat that has lost it sends nothing and stands by (redbeat goes on within a
  pass, and exits at the next, redbeat#163); a standby waits inside its ticks, so that its heartbeat is written.
- An entry that cannot be served is named and left out; the others go on.
- A clock that is set back stops no entry: those whose last tick lies in the future start anew.
- Redis commands survive a failover; redbeat's own retry covers only those outside pipelines.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from celery.beat import _evaluate_entry_args, _evaluate_entry_kwargs
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.exceptions import LockError, NoPermissionError, RedisError
from redis.retry import Retry

from holdfast import extras
from holdfast.audit import auditor
from holdfast.logins import refusal
from holdfast.metrics import numbers, processes
from holdfast.publisher.errors import Refused
from holdfast.pulse import Pulse, own_name
from holdfast.results import Patience, SteadyConnection, SteadyTLSConnection
from holdfast.schedule.ticks import UTC

with extras.needed():
    from redbeat import RedBeatScheduler
    from redbeat.schedulers import ensure_conf, get_redis

    from holdfast.schedule.entry import BATCH, StoredEntry
    from holdfast.schedule.rows import Moment, Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

logger = get_logger(__name__)

PATIENCE = 20.0  # seconds for a Redis command; a failover takes about 7, the lock lives for 30
CATCH_UP = 3600.0  # seconds
SKEW = timedelta(seconds=30)  # by which the clocks of two hosts may differ before a last tick counts as "in the future"
REVIEW = 300.0  # seconds between two looks at all entries; otherwise only those that are due are read
AT_MOST = 2**53  # a score above any


class Scheduler(RedBeatScheduler):
    """A scheduler that forgets no tick and never sends one without its lock."""

    Entry = StoredEntry
    lock: Any
    lock_key: str | None

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.pulse = Pulse(own_name("beat"), "beat", state="standby")
        self.pulse.write()
        processes.show(self.pulse)
        _be_patient(app)
        self.refused: dict[str, str] = {}
        self.not_before: datetime | None = None
        self._held_until = self._review_at = 0.0
        self._audits = False
        self._renewed_at: datetime | None = None
        self._written = False
        self._rows, self._configured = Rows(app), dict(app.conf.beat_schedule or {})
        try:
            super().__init__(app, **kwargs)
        except NoPermissionError as error:
            raise SystemExit(refusal("beat", "keep the schedule", error)) from error
        # redbeat would wait for the lock at the start, without end and without a sign of life
        self.lease_key, self.lock_key = self.lock_key, None
        self.catch_up = timedelta(seconds=float(app.conf.get("holdfast_beat_catch_up", CATCH_UP)))

    def setup_schedule(self) -> None:
        """Ask for the schedule, so that a beat which may not does not start; the holder of the lock writes it."""
        get_redis(self.app).smembers(self.app.redbeat_conf.statics_key)

    def _write_schedule(self) -> None:
        """Take out of Redis what the configuration and the rows no longer have, and write what they have."""
        client, known = get_redis(self.app), self.app.redbeat_conf
        known.schedule = self.app.conf.beat_schedule = self._rows.beside(self._configured)
        self.refused.clear()
        gone = sorted(client.smembers(known.statics_key) - set(known.schedule))
        if gone and self._rows.known:
            keys = [StoredEntry.generate_key(self.app, name) for name in gone]
            with client.pipeline() as pipe:  # all at once: redbeat makes two round trips for each
                pipe.zrem(known.schedule_key, *keys)
                pipe.delete(*keys)
                pipe.srem(known.statics_key, *gone)
                pipe.execute()
        super().setup_schedule()
        for name, reason in self._rows.refused.items():
            self._refuse(StoredEntry.generate_key(self.app, name), reason)
        self._written = True

    def update_from_dict(self, entries: dict[str, Any]) -> None:
        """Write entries to Redis.

        Args:
            entries: by name, as in ``beat_schedule``.
        """
        made: list[StoredEntry] = []
        failed: dict[str, Exception] = {}
        for name, fields in entries.items():
            try:
                made.append(self._maybe_entry(name, fields))
            except Exception as error:  # noqa: BLE001 - one bad entry must not stop the others
                failed[StoredEntry.generate_key(self.app, name)] = error
        failed |= StoredEntry.save_all(self.app, made)
        for entry in made:  # a holder that died may not have told the database
            if isinstance(entry.schedule, Moment) and entry.last_run_at and entry.last_run_at >= entry.schedule.at:
                self._rows.ran(entry.name, entry.last_run_at)
        for key, reason in failed.items():
            self._refuse(key, reason)
        if failed:
            get_redis(self.app).zrem(self.app.redbeat_conf.schedule_key, *failed)

    def tick(self, *_: Any, **__: Any) -> float:
        """Send what is due if this process holds the lock.

        Returns:
            Seconds until the next call.
        """
        delay = float(self.max_interval)
        if not self._audits:  # not in the constructor: celery makes a scheduler for its banner, too
            self._audits = True
            auditor.start(self.app, lambda: get_redis(self.app), lambda: self.pulse.state == "active")
        try:
            if self._holds_lock():
                delay = self._pass()
        except RedisError as error:
            logger.warning("beat: the schedule cannot be read or written now: %r", error)
        self.pulse.enter("active" if monotonic() < self._held_until else "standby")
        self.pulse.write()
        return delay

    def _pass(self) -> float:
        if self._rows.look(self._configured) or not self._written:
            self._write_schedule()
        if monotonic() >= self._review_at:
            self._review()
        client, order, now = get_redis(self.app), self.app.redbeat_conf.schedule_key, self._now()
        with client.pipeline() as pipe:
            pipe.zrangebyscore(order, 0, now.timestamp(), withscores=True)
            pipe.zrangebyscore(order, f"({now.timestamp()}", AT_MOST, start=0, num=1, withscores=True)
            due, coming = pipe.execute()
        wake = min([now.timestamp() + self.max_interval, *(score for _, score in coming)])
        for entry in self._read(due):
            with self._alone(entry):
                wake = min(wake, self._serve(entry).timestamp())
            if self.lock is None:
                return float(self.max_interval)
        return max(0.0, wake - self._now().timestamp())

    def _serve(self, entry: StoredEntry) -> datetime:
        """Send one entry if it is due, and note it as done once a broker has acknowledged it.

        Returns:
            When the entry is to be looked at again.
        """
        later = self._now() + timedelta(seconds=self.max_interval)
        if entry.last_run_at is None:  # new or changed: it counts from the moment at which it is first seen
            entry.done(entry.beginning(), count=0)
            return self._now()
        scheduled = entry.upcoming(entry.last_run_at, self.catch_up, self.not_before)
        if scheduled is None or scheduled > entry.now():
            entry.place()
            return scheduled or later
        if not entry.enabled:  # its ticks are not missed ones
            entry.done(entry.now(), count=0)
            return later
        if not self._holds_lock():
            return later
        self.pulse.write()
        error = self._attempt(entry, scheduled)
        if error is not None and _may_pass(error):
            logger.warning("beat: tick %s of %s is not acknowledged, it stays due: %r", scheduled, entry.name, error)
            return later
        if error is not None:
            logger.error("beat: tick %s of %s can never be sent, it is given up: %r", scheduled, entry.name, error)
        numbers.ticked("given_up" if error else "sent")
        entry.done(scheduled)
        self._rows.ran(entry.name, scheduled)
        return self._now()

    def _attempt(self, entry: StoredEntry, scheduled: datetime) -> Exception | None:
        try:
            self._send(entry, scheduled)
        except Exception as error:  # noqa: BLE001 - one tick that cannot be sent must not stop the others
            return error
        return None

    def _send(self, entry: StoredEntry, scheduled: datetime) -> None:
        options = {**entry.options}
        options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
        instant = scheduled.astimezone(UTC).isoformat()
        options.setdefault("task_id", str(uuid5(NAMESPACE_URL, f"beat:{entry.name}:{instant}")))
        logger.info("beat: sending %s (%s), scheduled for %s", entry.name, entry.task, instant)
        args, kwargs = _evaluate_entry_args(entry.args), _evaluate_entry_kwargs(entry.kwargs)
        task = self.app.tasks.get(entry.task)
        if task:
            task.apply_async(args, kwargs, **options)
        else:
            self.app.send_task(entry.task, args, kwargs, **options)

    # -- entries

    def _read(self, found: list[tuple[str, float]]) -> Iterator[StoredEntry]:
        """Read entries in the order in which they are due; one that cannot be read is named and left out."""
        client = get_redis(self.app)
        for start in range(0, len(found), BATCH):
            batch = found[start : start + BATCH]
            with client.pipeline(transaction=False) as pipe:
                for key, _ in batch:
                    pipe.hmget(key, "definition", "meta", "ticked_by")
                rows = pipe.execute()
            for (key, score), (definition, *known) in zip(batch, rows, strict=True):
                if definition is None:
                    logger.warning("beat: %s is in the schedule and has no definition, it is taken out", key)
                    client.zrem(self.app.redbeat_conf.schedule_key, key)
                    continue
                try:
                    entry = StoredEntry.read(self.app, definition, *known)
                except Exception as error:  # noqa: BLE001 - whatever somebody has written there
                    self._refuse(key, error)
                else:
                    entry.stored_score = score
                    yield entry

    def _review(self) -> None:
        """Check all entries; correct those that last ran in the future or stand in the wrong place of the order."""
        started, order = monotonic(), self.app.redbeat_conf.schedule_key
        for entry in self._read(get_redis(self.app).zrange(order, 0, -1, withscores=True)):
            with self._alone(entry):
                if entry.last_run_at and entry.last_run_at > entry.now() + SKEW:
                    logger.warning(
                        "beat: %s ran at %s, in the future: it counts from now", entry.name, entry.last_run_at
                    )
                    entry.done(entry.now(), count=0)
                elif abs(entry.score - entry.stored_score) > 1:
                    entry.place()
        self._review_at = started + REVIEW

    @contextmanager
    def _alone(self, entry: StoredEntry) -> Iterator[None]:
        """Keep an error of one entry from reaching the others."""
        try:
            yield
        except RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - a schedule class may raise anything
            self._refuse(entry.key, error)
        else:
            if self.refused.pop(entry.key, None):
                numbers.entries_refused(len(self.refused))

    def _refuse(self, key: str, error: Exception) -> None:
        reason = f"{error}" if isinstance(error, ValueError) else f"{error!r}"
        if self.refused.get(key) != reason:
            logger.error("beat: the entry %s is left out: %s", key, reason)
        self.refused[key] = reason
        numbers.entries_refused(len(self.refused))

    # -- the lock, and the time

    def _holds_lock(self) -> bool:
        """Renew the lock, or try to get it; False leaves the work to the other beat."""
        asked = monotonic()
        try:
            if self.lock is None:
                client = get_redis(self.app)
                lock = client.lock(self.lease_key, timeout=self.lock_timeout)
                if not lock.acquire(blocking=False):
                    # its end is a time of the server's clock, which may have been set back since
                    client.pexpire(self.lease_key, int(1000 * self.lock_timeout), lt=True)
                    return False
                self.lock = lock
                self._took_over(client)
            else:
                self.lock.reacquire()
                self._compare_clocks()
        except (LockError, RedisError) as error:
            if self.lock:
                logger.warning("beat: the lock is lost, standing by: %r", error)
            self.lock = None
            self._held_until = 0.0
            return False
        self._held_until = asked + self.lock_timeout
        return True

    def _took_over(self, client: Any) -> None:
        logger.info("beat: this process holds the lock and sends the ticks")
        self._renewed_at, self.not_before, self._review_at = self._now(), None, 0.0
        self._written = False
        self._rows.forget()
        seconds, micros = client.time()
        apart = self._now().timestamp() - seconds - micros / 1e6
        if abs(apart) > SKEW.total_seconds():
            logger.warning("beat: the clock of this host is %.0f s ahead of Redis's; ticks follow this host's", apart)

    def _compare_clocks(self) -> None:
        """Notice a clock that was set: the lock was still there, so no more than its lifetime has passed."""
        now, before = self._now(), self._renewed_at or self._now()
        self._renewed_at = now
        if now < before - SKEW or now > before + timedelta(seconds=self.lock_timeout) + SKEW:
            logger.warning(
                "beat: the clock went from %s to %s; of ticks in between only the latest is sent", before, now
            )
            self.not_before, self._review_at = now, 0.0

    def _now(self) -> datetime:
        return self.app.now().astimezone(UTC)


def _may_pass(error: Exception) -> bool:
    """Return whether a later attempt may succeed: a broker that is away, not a message that no broker takes."""
    return isinstance(error, (OperationalError, OSError, RedisError)) and not isinstance(error, Refused)


def _be_patient(app: Celery) -> None:
    """Give every connection of redbeat a policy that waits for a failover and reads no dead Sentinel twice."""
    ensure_conf(app)
    client = get_redis(app)
    sentinel = getattr(app, "redbeat_sentinel", None)
    if sentinel is None:  # one address
        client.set_retry(Patience(PATIENCE, PATIENCE))
    elif "connection_class" not in sentinel.connection_kwargs:
        kind = SteadyTLSConnection if sentinel.connection_kwargs.pop("ssl", False) else SteadyConnection
        sentinel.connection_kwargs |= {"retry": Patience(PATIENCE, PATIENCE), "connection_class": kind}
        for client in sentinel.sentinels:
            client.set_retry(Retry(NoBackoff(), 0))

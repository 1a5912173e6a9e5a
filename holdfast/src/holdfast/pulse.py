"""The heartbeat file of a worker or beat: written by its main loop, judged by anybody, with the standard library alone.

The process writes what it sees; the judgement (``problems``) is in one place, shared by the container's health check,
the supervisor's watch and the command line. The broker is not asked again and no remote control is used, so a probe
works during an alarm, needs no rights on the broker, and costs no connection.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import gmtime, strftime, time

LOOP_LIMIT = 30.0  # seconds; the main loop writes every 5
CONNECT_LIMIT = 120.0  # seconds; a restart of all brokers takes less
ATTENDED_LIMIT = 60.0  # seconds; a queue without majority does not answer
STARVED_LIMIT = 90.0  # seconds; above the broker's longest pause before it hands a rejected message out again
TICK_LIMIT = 90.0  # seconds; beat writes before and after each publish, and waits up to 60 for Redis


@dataclass
class Queue:
    """What the broker last said about a queue.

    :ivar attended: when it last knew a consumer, as seconds since the epoch. A queue whose leader is away or slow is
        described as empty and without consumers, so one such answer says nothing.
    :ivar messages: how many were ready.
    :ivar consumers: how many consumers it knew, this worker's included.
    """

    attended: float
    messages: int = 0
    consumers: int = 0


@dataclass
class Pulse:
    """One heartbeat.

    :ivar name: of the supervised program, or of the process.
    :ivar kind: ``worker`` or ``beat``.
    :ivar pid: of the main process.
    :ivar state: ``connecting`` or ``consuming``; of a beat ``active`` or ``standby``.
    :ivar since: when this state began, as seconds since the epoch.
    :ivar time: when this was written.
    :ivar queues: by name, of a worker.
    :ivar received: number of messages so far.
    :ivar running: number of tasks at hand.
    :ivar starved: since when messages wait while this worker has nothing to do, or None.
    :ivar paused: since when a queue is cancelled by remote control, by its name.
    :ivar task: the task that the main loop itself has begun to run (solo, gevent, eventlet), or None.
    :ivar limit: for how many seconds the tasks that the main loop runs may keep it.
    """

    name: str
    kind: str
    pid: int = field(default_factory=os.getpid)
    state: str = "connecting"
    since: float = field(default_factory=time)
    time: float = field(default_factory=time)
    queues: dict[str, Queue] = field(default_factory=dict)
    received: int = 0
    running: int = 0
    starved: float | None = None
    paused: dict[str, float] = field(default_factory=dict)
    task: str | None = None
    limit: float = 0.0

    def write(self) -> None:
        """Replace the file; a full disk must not stop the process, so an error only leaves the file old."""
        self.time = time()
        try:
            path = directory() / f"{self.name}.json"
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            draft = path.with_suffix(f".{self.pid}")
            draft.write_text(json.dumps(asdict(self)))
            draft.replace(path)
        except OSError:
            return

    def enter(self, state: str) -> None:
        """Note the state the process is in now, and since when."""
        if state != self.state:
            self.state, self.since = state, time()

    def problems(self, now: float | None = None) -> list[str]:
        """Say what keeps the process from doing its work; nothing when it does it.

        :param now: seconds since the epoch, for tests.
        """
        now = time() if now is None else now
        if not alive(self.pid):
            return [f"process {self.pid} has ended"]
        return self._beat(now) if self.kind == "beat" else self._worker(now)

    def notes(self, now: float | None = None) -> list[str]:
        """Say what keeps the process from its usual work on purpose; none of this is a fault.

        :param now: seconds since the epoch, for tests.
        """
        now = time() if now is None else now
        found = [
            f"queue {name} is paused by remote control since {_clock(since)}"
            for name, since in sorted(self.paused.items())
        ]
        if self.task and LOOP_LIMIT < now - self.time <= self._patience():
            found.append(f"its main loop runs {self.task} since {_clock(self.time)}")
        return found

    def consumes(self, name: str, now: float | None = None) -> bool:
        """Say whether the worker consumes from a queue, as far as it and the broker know.

        :param name: of the queue.
        :param now: seconds since the epoch, for tests.
        """
        now = time() if now is None else now
        queue = self.queues.get(name)
        return (
            queue is not None
            and self.state == "consuming"
            and queue.consumers > 0
            and name not in self.paused
            and (bool(self.task) or now - queue.attended <= ATTENDED_LIMIT)
            and now - self.time <= self._patience()
        )

    def _patience(self) -> float:
        """Return how long the main loop may stand still: it does nothing else while it runs a task itself."""
        return LOOP_LIMIT + (self.limit if self.task else 0.0)

    def _beat(self, now: float) -> list[str]:
        age = now - self.time
        return [f"no tick for {age:.0f} s (limit {TICK_LIMIT:.0f})"] if age > TICK_LIMIT else []

    def _worker(self, now: float) -> list[str]:
        if self.state == "connecting":
            age = now - self.since
            return (
                [f"not connected to a broker for {age:.0f} s (limit {CONNECT_LIMIT:.0f})"]
                if age > CONNECT_LIMIT
                else []
            )
        if (age := now - self.time) > self._patience():
            begun = f" since it began to run {self.task}" if self.task else ""
            return [f"the main loop has stood still for {age:.0f} s{begun} (limit {self._patience():.0f})"]
        found = [] if self.queues or self.paused else ["it consumes from no queue"]
        if self.task:  # the loop has read no answer since it began, however many tasks it runs in a row
            return found
        for name, queue in self.queues.items():
            if name not in self.paused and (age := now - queue.attended) > ATTENDED_LIMIT:
                reason = "no answer from the broker about" if queue.consumers else "the broker knows no consumer of"
                found.append(f"{reason} queue {name} for {age:.0f} s (limit {ATTENDED_LIMIT:.0f})")
        if self.starved and (age := now - self.starved) > STARVED_LIMIT:
            found.append(f"messages have waited for {age:.0f} s while it had nothing to do (limit {STARVED_LIMIT:.0f})")
        return found


def directory() -> Path:
    """Return where heartbeat files are: ``HOLDFAST_PULSE_DIR``, by default one of this user in ``/tmp``.

    Everybody can make that folder first, and plant links in it that lead to this user's files.

    :raises OSError: the default one cannot be made, or others can write to it.
    """
    if given := os.environ.get("HOLDFAST_PULSE_DIR"):
        return Path(given)
    user = os.geteuid()
    path = Path(tempfile.gettempdir()) / f"holdfast-{user}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
        raise PermissionError(
            f"{path} is a link, of another user, or open to others; allowed: a folder of user {user} that only it can "
            "write to; remove it, or set HOLDFAST_PULSE_DIR"
        )
    return path


def _clock(at: float) -> str:
    return strftime("%Y-%m-%d %H:%M:%S UTC", gmtime(at))


def own_name(fallback: str) -> str:
    """Return the name of this process's heartbeat file: that of its program under supervisor, or ``fallback``."""
    return os.environ.get("SUPERVISOR_PROCESS_NAME") or fallback


def read(name: str) -> Pulse | None:
    """Read a heartbeat.

    :param name: of the program.
    :return: None when there is none that can be read.
    """
    try:
        content = json.loads((directory() / f"{name}.json").read_text())
        queues = {key: Queue(**value) for key, value in content.pop("queues").items()}
        return Pulse(**content, queues=queues)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def names() -> list[str]:
    """Return the names of all heartbeat files.

    :raises OSError: as :func:`directory`.
    """
    return sorted(path.stem for path in directory().glob("*.json"))


def alive(pid: int) -> bool:
    """Say whether a process exists.

    :param pid: its number.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives and belongs to another user
        return True
    return True

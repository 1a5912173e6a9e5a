"""A receiver to deliver to: answers POST requests, fails when told to, and keeps a durable log of all it has seen.

``POST`` to any path is a delivery. ``POST /status/503`` always answers 503 (any status). ``POST /control`` changes how
a path answers, ``GET /log`` and ``GET /counts`` (both with an optional ``?path=/hook``) tell what came, ``GET /alerts``
what Alertmanager has sent to that path. A request is on disk before it is answered, so the log is evidence. With
``WEBHOOKS_SIGNING_KEYS`` a delivery that none of these keys has signed is answered with 401, but for what Alertmanager
posts to ``/alerts`` and ``/heartbeat``: it signs nothing.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from webhooks import config, signature

MAX_BODY = 1024 * 1024  # bytes
ALERTS = "/alerts"  # where Alertmanager of the local stack posts
UNSIGNED = {ALERTS, "/heartbeat"}


@dataclass
class Behaviour:
    """How a path answers.

    Attributes:
        fail_next: how many of the next requests fail; -1 fails all.
        status: the status of a failure.
        delay: seconds before each answer.
    """

    fail_next: int = 0
    status: int = 503
    delay: float = 0.0


@dataclass
class Tally:
    """What came to one path."""

    requests: int = 0
    accepted: int = 0
    keys: set[str] = field(default_factory=set)

    def add(self, entry: dict[str, Any]) -> None:
        """Count a request."""
        self.requests += 1
        if entry["status"] < 300:
            self.accepted += 1
            self.keys.add(entry["key"])


class Log:
    """Every request, one JSON object per line in a file; in memory there are only the counts."""

    def __init__(self, path: Path) -> None:
        """Open the file and count what an earlier run has written; a line that a crash cut short is dropped."""
        self._lock = threading.Lock()
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        complete = 0
        for line in self._file:
            if line.endswith(b"\n"):
                complete += len(line)
                entry = json.loads(line)
                self._tallies[entry["path"]].add(entry)
        self._file.truncate(complete)

    def add(self, entry: dict[str, Any]) -> None:
        """Append ``entry`` and wait until the disk has it."""
        with self._lock:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
        os.fsync(self._file.fileno())  # outside of the lock: waiting threads share one flush of the disk
        with self._lock:
            self._tallies[entry["path"]].add(entry)

    def select(self, path: str | None) -> list[dict[str, Any]]:
        """Return the entries, those of one path if it is given."""
        with self._lock:
            size = self._file.tell()
        with Path(self._file.name).open("rb") as file:
            entries = (json.loads(line) for line in file.read(size).splitlines())
            return [entry for entry in entries if path in (None, entry["path"])]

    def counts(self, path: str | None) -> dict[str, int]:
        """Return how many requests came and were accepted, and how many different keys each path accepted."""
        with self._lock:
            tallies = [tally for name, tally in self._tallies.items() if path in (None, name)]
            requests = sum(tally.requests for tally in tallies)
            accepted = sum(tally.accepted for tally in tallies)
            unique = sum(len(tally.keys) for tally in tallies)
        return {
            "requests": requests,
            "accepted": accepted,
            "unique": unique,
            "duplicates": accepted - unique,
            "refused": requests - accepted,
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def alerts(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a message of Alertmanager says of each alert in it; nothing for a request of another kind.

    Args:
        entry: of the log.
    """
    try:
        found = json.loads(entry["body"])["alerts"]
        return [
            {"received": entry["time"], "status": alert["status"], **alert["labels"], **alert["annotations"]}
            for alert in found
        ]
    except (ValueError, TypeError, KeyError):
        return []


class Receiver(ThreadingHTTPServer):
    """The server; a thread per request."""

    daemon_threads = True
    request_queue_size = 128  # connections that wait to be accepted: a batch comes at once

    def __init__(self, address: tuple[str, int], log: Log) -> None:
        """Listen on ``address`` (port 0 takes a free one) and log to ``log``."""
        super().__init__(address, Handler)
        self.log = log
        self._behaviours: dict[str, Behaviour] = {}
        self._lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about a client that hung up, as health checks do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def control(self, path: str, behaviour: Behaviour) -> None:
        """Make ``path`` answer so from now on.

        Raises:
            ValueError: the status is none that ends a request, or the delay is negative.
        """
        if not 200 <= behaviour.status <= 599 or behaviour.delay < 0:
            raise ValueError("status must be 200 to 599 and delay not negative")
        with self._lock:
            self._behaviours[path] = behaviour

    def answer(self, path: str) -> tuple[int, float]:
        """Return the status and the delay in seconds for the next request to ``path``."""
        if path.startswith("/status/") and path[8:].isdecimal() and 200 <= int(path[8:]) <= 599:
            return int(path[8:]), 0.0
        with self._lock:
            behaviour = self._behaviours.get(path, Behaviour())
            if behaviour.fail_next == 0:
                return HTTPStatus.OK, behaviour.delay
            behaviour.fail_next -= behaviour.fail_next > 0
            return behaviour.status, behaviour.delay


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Receiver
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds; an idle connection gives its thread back

    def do_POST(self) -> None:
        """Take a delivery, or change a behaviour."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True  # the body is not read, so the next request could not be found
            self._reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"Content-Length must be 0 to {MAX_BODY}"})
            return
        body = self.rfile.read(int(length))
        path = urlsplit(self.path).path
        if path == "/control":
            self._control(body)
            return
        status, delay = self.server.answer(path)
        if path not in UNSIGNED and not signature.verified(config.load().signing_keys, dict(self.headers), body):
            status = HTTPStatus.UNAUTHORIZED
        time.sleep(delay)
        entry = {
            "time": time.time(),
            "path": path,
            "key": self.headers.get("Idempotency-Key", ""),
            "status": int(status),
            "body": body.decode(errors="replace"),
        }
        self.server.log.add(entry)
        self._reply(status, {"status": int(status)})

    def do_GET(self) -> None:
        """Tell what came."""
        url = urlsplit(self.path)
        path = parse_qs(url.query).get("path", [None])[0]
        if url.path == "/log":
            self._reply(HTTPStatus.OK, self.server.log.select(path))
        elif url.path == "/counts":
            self._reply(HTTPStatus.OK, self.server.log.counts(path))
        elif url.path == ALERTS:
            self._reply(HTTPStatus.OK, [alert for entry in self.server.log.select(ALERTS) for alert in alerts(entry)])
        else:
            self._reply(HTTPStatus.NOT_FOUND, {"error": "GET /log, /counts, /alerts; POST /control or any other path"})

    def log_message(self, *_: object) -> None:
        """Write no access log: the log file is one."""

    def _control(self, body: bytes) -> None:
        try:
            wanted = json.loads(body)
            path = wanted.pop("path", "/hook")
            behaviour = Behaviour(**wanted)
            self.server.control(path, behaviour)
        except (ValueError, TypeError, AttributeError) as error:
            self._reply(
                HTTPStatus.BAD_REQUEST,
                {"error": str(error), "allowed": {"path": "/hook", "fail_next": 0, "status": 503, "delay": 0.0}},
            )
            return
        self._reply(HTTPStatus.OK, {"path": path} | vars(behaviour))

    def _reply(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

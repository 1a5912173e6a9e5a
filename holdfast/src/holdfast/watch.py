"""An event listener of supervisor that restarts a program whose heartbeat says that it does not do its work.

A program counts from :data:`GRACE` seconds after its start. Only the standard library is needed.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import xmlrpc.client
from time import time
from typing import TYPE_CHECKING, Any, TextIO

from holdfast import pulse

if TYPE_CHECKING:
    from collections.abc import Iterable

GRACE = 60  # seconds after its start in which a program is left alone


def sick(programs: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return the programs to restart, each with the reason.

    :param programs: as ``supervisor.getAllProcessInfo`` returns them; those without a heartbeat file are none of ours.
    """
    found = {}
    for program in programs:
        if program["statename"] != "RUNNING" or time() - program["start"] < GRACE:
            continue
        heartbeat = pulse.read(program["name"])
        if heartbeat is None:
            continue
        if heartbeat.pid != program["pid"]:
            problems = ["it has written no heartbeat since its start"]
        else:
            problems = heartbeat.problems()
        if problems:
            found[f"{program['group']}:{program['name']}"] = "; ".join(problems)
    return found


def meant(programs: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return the programs that do not do their usual work because somebody wants it so, each with the reason.

    :param programs: as for :func:`sick`.
    """
    found = {}
    for program in programs:
        heartbeat = pulse.read(program["name"])
        if heartbeat is not None and heartbeat.pid == program["pid"] and (notes := heartbeat.notes()):
            found[f"{program['group']}:{program['name']}"] = "; ".join(notes)
    return found


def run(events: TextIO, answers: TextIO, url: str | None = None) -> None:
    """Serve supervisor's event protocol until it closes the input.

    :param events: where supervisor writes.
    :param answers: where it reads.
    :param url: of supervisor's Unix socket, by default what supervisor says in ``SUPERVISOR_SERVER_URL``.
    """
    server = xmlrpc.client.ServerProxy("http://supervisor", _UnixTransport(url or os.environ["SUPERVISOR_SERVER_URL"]))
    left_alone: dict[str, str] = {}
    while True:
        print("READY", file=answers, flush=True)
        header = events.readline()
        if not header:
            return
        events.read(int(dict(part.split(":", 1) for part in header.split())["len"]))
        try:
            left_alone = _round(server.supervisor, left_alone)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            print(f"supervisor does not answer: {error!r}", file=sys.stderr, flush=True)
        print("RESULT 2\nOK", end="", file=answers, flush=True)


def _round(supervisor: Any, left_alone: dict[str, str]) -> dict[str, str]:
    """Restart what is sick; return what is left alone and why, which is said when it changes."""
    programs = supervisor.getAllProcessInfo()
    found = meant(programs)
    for program, reason in found.items():
        if left_alone.get(program) != reason:
            print(f"Leaving {program} alone: {reason}", file=sys.stderr, flush=True)
    for program, reason in sick(programs).items():
        print(f"Restarting {program}: {reason}", file=sys.stderr, flush=True)
        supervisor.stopProcess(program)
        supervisor.startProcess(program, False)
    return found


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._path = url.removeprefix("unix://")

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002 - xmlrpc's signature
        return _UnixConnection(self._path)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("supervisor")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

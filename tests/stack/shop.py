"""The shop of an example on the running stack: its web server, worker and relay, and clients that never stop ordering.

Without its lines an example is stock Celery: the diff of its README is taken back in a copy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from sqlalchemy import column, select, table

from ..commands import ROOT
from ..tutorials import environment, run, take_back
from .postgres import for_django
from .servers import free_ports
from .stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

CLIENTS, PAUSE = 2, 0.15  # how many clients order, and the seconds between two orders of one
FAULTS = """
import os, signal, time
from celery.signals import task_prerun

def asked():
    try:
        os.unlink("die")
    except FileNotFoundError:
        return False
    return True

def die(*_):
    if asked():
        os.kill(os.getpid(), signal.SIGKILL)

@task_prerun.connect
def hold(**_):
    while os.path.exists("hold"):
        open("held", "w").close()
        time.sleep(0.05)
"""
COMMITTED = """
import faults
from sqlalchemy import event
from sqlalchemy.orm import Session
event.listen(Session, "after_commit", faults.die)
"""
DJANGO = """
import os
import faults
from django.core.wsgi import get_wsgi_application
from django.db.backends.base.base import BaseDatabaseWrapper
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
app, follow = get_wsgi_application(), BaseDatabaseWrapper.run_and_clear_commit_hooks

def committed(connection):
    if connection.run_on_commit:
        faults.die()
    follow(connection)

BaseDatabaseWrapper.run_and_clear_commit_hooks = committed
"""
DATABASES = """
import json, os
DATABASES = {"default": json.loads(os.environ["DJANGO_DATABASE"])}
"""
GUNICORN = ("gunicorn", "served:app", "--workers", "2", "--threads", "4", "--bind")


@dataclass(frozen=True)
class Example:
    """What differs between the examples."""

    app: str
    served: str
    server: tuple[str, ...]
    tables: tuple[str, ...] = ("python3", "-m", "shop.database")
    table: str = "orders"
    form: bool = True


EXAMPLES = {
    "django": Example("shop", DJANGO, GUNICORN, ("python3", "manage.py", "migrate"), "orders_order"),
    "flask": Example("make_celery", f"{COMMITTED}from make_celery import flask_app as app\n", GUNICORN),
    "fastapi": Example(
        "shop.celery", f"{COMMITTED}from shop.web import api as app\n", ("uvicorn", "served:app", "--workers", "2"),
        form=False,
    ),
}  # fmt: skip


class Kept:
    """A program that is started again whenever it ends, as a supervisor does."""

    def __init__(self, folder: Path, variables: dict[str, str], name: str, *command: str) -> None:
        self._folder, self._variables, self._name, self._command = folder, variables, name, command
        self._ended = threading.Event()
        self._child = self._start()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def kill(self) -> None:
        """Kill it and its children."""
        os.killpg(self._child.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it for good."""
        self._ended.set()
        while self._thread.is_alive():  # it may be between two runs, and start another one
            with suppress(ProcessLookupError):
                self.kill()
            self._thread.join(0.5)

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._folder / f"{self._name}.log").open("a") as log:
            return subprocess.Popen(
                self._command, cwd=self._folder, env=self._variables, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def _keep(self) -> None:
        while self._child.wait() is not None and not self._ended.wait(0.5):
            self._child = self._start()


@dataclass
class Shop:
    """An example in a folder of its own, with a database and a broker.

    Attributes:
        name: of the example.
        durable: False takes our lines back.
        folder: where its copy lies.
        engine: of its database.
        servers: variables of its environment; of stock Celery only ``BROKER`` is read.
        answered: numbers of the orders for which the web server answered 2xx.
        sent: how many requests were sent.
    """

    name: str
    durable: bool
    folder: Path
    engine: Engine
    servers: dict[str, str]
    answered: set[int] = field(default_factory=set)
    sent: int = 0
    phases: dict[str, tuple[int, int]] = field(default_factory=dict)

    @contextmanager
    def open(self) -> Iterator[Kept]:
        """Serve and order until the end of the block, which gets the worker."""
        example = EXAMPLES[self.name]
        self._write()
        url = self.engine.url.render_as_string(hide_password=False)
        servers = self.servers | {"DATABASE_URL": url, "HOLDFAST_OUTBOX_URL": url, "DJANGO_DATABASE": self._database()}
        variables = environment(servers) | {"REMAP_SIGTERM": "SIGQUIT"}
        run(self.folder, servers, *example.tables)
        self.port, metrics = free_ports(2)
        bind = (f"127.0.0.1:{self.port}",) if example.form else ("--port", str(self.port))
        worker = ("celery", "-A", example.app, "worker", "--concurrency", "2", "--include", "faults")
        relay = ("python3", "manage.py", "relay") if self.name == "django" else ("holdfast", "relay", "-A", example.app)
        programs = {"web": (*example.server, *bind), "worker": worker}
        if self.durable:
            programs["relay"] = (*relay, "--metrics", f"127.0.0.1:{metrics}")
        closed = threading.Event()
        clients = [threading.Thread(target=self._order_until, args=(closed,)) for _ in range(CLIENTS)]
        with ExitStack() as running:
            kept = {name: Kept(self.folder, variables, name, *command) for name, command in programs.items()}
            for program in kept.values():
                running.callback(program.end)
            running.callback(self._stop, closed, clients)
            for client in clients:
                client.start()
            self._clients = closed, clients
            yield kept["worker"]

    def close(self) -> None:
        """Let no client order any more."""
        self._stop(*self._clients)

    def lacks(self, name: str) -> bool:
        """Whether a file of that name is gone from its folder."""
        return not (self.folder / name).exists()

    def works(self) -> None:
        """Wait until an order of from now on has its invoice."""
        newest = self.newest()
        wait_until(lambda: any(n > newest for n in self.orders()[1]), f"{self} works")

    def orders(self) -> tuple[set[int], set[int]]:
        """Return the numbers of all orders, and of those whose task has run."""
        with self.engine.connect() as connection:
            found = table(EXAMPLES[self.name].table, column("id"), column("invoice"))
            rows = connection.execute(select(found)).all()
        return {number for number, _ in rows}, {number for number, invoice in rows if invoice}

    def newest(self) -> int:
        """Return the number of the newest order, 0 when there is none."""
        return max(self.orders()[0], default=0)

    def ordered(self, number: int) -> bool:
        """Whether there are orders up to this number."""
        return self.newest() >= number

    @contextmanager
    def during(self, fault: str) -> Iterator[None]:
        """Count the orders of this block as those of a fault."""
        begin = self.newest()
        yield
        self.phases[fault] = (begin, self.newest())

    def lost(self, fault: str = "") -> int:
        """Count the orders without a task, of one fault or all."""
        orders, invoiced = self.orders()
        begin, end = self.phases[fault] if fault else (0, max(orders))
        return sum(begin < number <= end for number in orders - invoiced)

    def __str__(self) -> str:
        return f"{self.name} with {'Holdfast' if self.durable else 'stock Celery'}"

    def _order_until(self, closed: threading.Event) -> None:
        data = urlencode({"email": "ada@example.com"})
        form = EXAMPLES[self.name].form
        url = f"http://127.0.0.1:{self.port}/orders" + ("" if form else f"?{data}")
        while not closed.wait(PAUSE):
            self.sent += 1
            try:
                with urlopen(Request(url, data.encode() if form else b"", method="POST"), timeout=30) as answer:
                    self.answered.add(int(re.findall(rb"\d+", answer.read())[0]))
            except (OSError, HTTPException):
                continue  # not answered, or with an error: the order may exist or not

    def _stop(self, closed: threading.Event, clients: list[threading.Thread]) -> None:
        closed.set()
        for client in clients:
            client.join()

    def _write(self) -> None:
        """Copy the example; of stock Celery our lines are taken back, and the application names its broker."""
        shutil.copytree(ROOT / "examples" / self.name, self.folder)
        for name, content in (("faults", FAULTS), ("served", EXAMPLES[self.name].served)):
            (self.folder / f"{name}.py").write_text(content)
        if not self.durable:
            take_back(self.name, self.folder)
            for path in self.folder.rglob("shop/*.py"):
                named = path.read_text().replace("redis://localhost", self.servers["BROKER"], 1)
                path.write_text(named.replace("redis://localhost", "disabled://", 1))
        if self.name == "django":
            with (self.folder / "shop/settings.py").open("a") as settings:
                settings.write(DATABASES)
        if self.name == "fastapi":  # as its page says: with PostgreSQL one URL serves both engines
            path = self.folder / "shop/database.py"
            path.write_text(path.read_text().replace('url.set(drivername="sqlite+aiosqlite")', "url"))

    def _database(self) -> str:
        """Return the database as Django's settings name it."""
        return json.dumps(for_django(self.engine))

"""The FastAPI example under faults: every order in the database gets its task; stock Celery loses some."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from ...commands import ROOT
from ...tutorials import environment, run, take_back
from ..servers import free_ports, paused
from ..stack import wait_until
from .test_tutorials import one_sentinel, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..servers import OwnRig

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

KILLS = 3
WEB = """
import os, signal, sys
import uvicorn
from sqlalchemy import event
from sqlalchemy.orm import Session
from shop.web import api

@event.listens_for(Session, "after_commit")
def die(session):
    if os.path.exists("die"):
        os.unlink("die")
        os.kill(os.getpid(), signal.SIGKILL)

uvicorn.run(api, port=int(sys.argv[1]), log_level="warning")
"""


@dataclass
class Shop:
    """The example, running.

    Attributes:
        accepted: numbers of the orders for which the web application answered 202.
        slowest: seconds that a request took at most.
    """

    folder: Path
    servers: dict[str, str]
    accepted: set[int] = field(default_factory=set)
    slowest: float = 0.0
    port: int = field(default_factory=lambda: free_ports(1)[0])

    @contextmanager
    def web(self) -> Iterator[subprocess.Popen[bytes]]:
        """Serve requests until the end of the block."""
        command = [sys.executable, "-c", WEB, str(self.port)]
        with (self.folder / "web.log").open("a") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment(self.servers), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            wait_until(self._answers, "the web application has started", 120)
            yield process
        finally:
            process.kill()
            process.wait()

    def order(self, email: str) -> bool:
        """Send an order; return whether it was accepted."""
        begin = monotonic()
        try:
            url = f"http://127.0.0.1:{self.port}/orders?email={email}"
            with urlopen(Request(url, method="POST"), timeout=60) as answer:
                self.accepted.add(int(re.findall(rb"\d+", answer.read())[0]))
        except OSError:
            return False
        finally:
            self.slowest = max(self.slowest, monotonic() - begin)
        return True

    def orders(self) -> tuple[set[int], set[int]]:
        """Return the numbers of all orders, and of those whose task has run."""
        connection = sqlite3.connect(self.folder / "outbox.sqlite3", timeout=30)
        rows = connection.execute("SELECT id, invoice FROM orders").fetchall()
        connection.close()
        return {number for number, _ in rows}, {number for number, invoice in rows if invoice}

    def _answers(self) -> bool:
        try:
            urlopen(f"http://127.0.0.1:{self.port}/docs", timeout=5).close()
        except URLError:
            return False
        return True


def stock(folder: Path, broker: str, results: str) -> None:
    """Take the changed lines back, and name the servers where the application names its own."""
    take_back("fastapi", folder)
    path = folder / "shop/celery.py"
    for url in (broker, results):
        path.write_text(path.read_text().replace("redis://localhost", url, 1))


@pytest.mark.parametrize("durable", [True, False], ids=["holdfast", "stock"])
def test_orders_equal_tasks_after_kills_and_a_frozen_broker(
    durable: bool, own_rig: OwnRig, own_environment: dict[str, str], tmp_path: Path
) -> None:
    assert own_rig.servers
    servers = own_environment
    shutil.copytree(ROOT / "examples/fastapi", tmp_path, dirs_exist_ok=True)
    if durable:
        one_sentinel(tmp_path)
    else:
        stock(tmp_path, own_rig.servers.broker_url, f"redis://127.0.0.1:{own_rig.servers.primary}/9")
    run(tmp_path, servers, "python3", "-m", "shop.database")
    shop = Shop(tmp_path, servers)
    with ExitStack() as running:
        worker = ("worker", "celery", "-A", "shop.celery", "worker", "--concurrency", "2")
        metrics = f"127.0.0.1:{free_ports(1)[0]}"
        relay = ("relay", "holdfast", "relay", "-A", "shop.celery", "--metrics", metrics)
        for what, *command in (worker, relay)[: 1 + durable]:
            running.enter_context(program(tmp_path, servers, what, *command))
        for number in range(KILLS):
            with shop.web() as web:
                assert shop.order(f"before{number}@example.com")
                (tmp_path / "die").touch()
                assert not shop.order(f"killed{number}@example.com"), "it was killed after the commit"
                web.wait(60)
        with shop.web():
            assert shop.order("warm@example.com")
            shop.slowest = 0.0
            with paused(own_rig.servers.broker), ThreadPoolExecutor(8) as clients:
                sent = list(clients.map(lambda n: shop.order(f"frozen{n}@example.com"), range(24)))
            wait_until(lambda: shop.accepted <= shop.orders()[1], "the accepted orders have their invoices", 180)
            if durable:
                assert all(sent)
                wait_until(lambda: len(set(map(len, shop.orders()))) == 1, "every order has its invoice", 120)
    orders, invoiced = shop.orders()
    lost = len(orders) - len(invoiced)
    print(f"{len(orders)} orders, {len(invoiced)} tasks, {lost} lost; slowest request {shop.slowest:.2f} s")
    assert len(orders) >= 2 * KILLS + 1
    assert lost == 0 if durable else lost >= KILLS

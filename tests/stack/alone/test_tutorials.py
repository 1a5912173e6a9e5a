"""The applications of the tutorials with a worker, a relay and servers: each order gets its invoice, whoever dies."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from ast import literal_eval
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from ...commands import ROOT
from ...test_tutorials import REQUESTS
from ...tutorials import PAGES, environment, run, take_back, write
from ..servers import free_ports
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..servers import OwnRig

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

APPS = {"django": "shop", "fastapi": "shop.celery", "flask": "make_celery"}
RELAYS = {"django": ("python3", "manage.py", "relay")}
DIES = """
import os
from django.db.backends.base.base import BaseDatabaseWrapper

def die(connection):
    if connection.run_on_commit:
        os.kill(os.getpid(), 9)  # the transaction is committed, what is to follow the commit has not begun

BaseDatabaseWrapper.run_and_clear_commit_hooks = die
"""


def address() -> str:
    """An address for metrics."""
    return f"127.0.0.1:{free_ports(1)[0]}"


@contextmanager
def program(folder: Path, servers: dict[str, str], name: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Keep a program of a tutorial running until the end of the block."""
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(servers), stdout=log, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(90)
            finally:
                process.kill()


def one_sentinel(folder: Path) -> None:
    """Let the application do with the only Sentinel of these servers."""
    with (folder / "shop/celery.py").open("a") as settings:
        settings.write('app.conf.result_backend_transport_options["min_other_sentinels"] = 0\n')


@pytest.mark.parametrize("name", PAGES)
def test_an_order_gets_its_invoice_from_the_worker(name: str, own_environment: dict[str, str], tmp_path: Path) -> None:
    servers = own_environment
    write(name, tmp_path)
    one_sentinel(tmp_path)

    with ExitStack() as running:
        for what, *command in (
            ("relay", *RELAYS.get(name, ("holdfast", "relay", "-A", APPS[name])), "--metrics", address()),
            ("worker", "celery", "-A", APPS[name], "worker", "--concurrency", "2"),
        ):
            running.enter_context(program(tmp_path, servers, what, *command))
        said = run(tmp_path, servers, "python3", "-c", f"{REQUESTS[name]}\nprint(order().status_code)")
        assert said.splitlines()[-1] == "202"

        def invoice() -> bool:
            shown = run(tmp_path, servers, "python3", "-c", f'{REQUESTS[name]}\nprint(show()["invoice"])')
            return shown.splitlines()[-1] == "Invoice 1 for ada@example.com"

        wait_until(invoice, "the order has its invoice", 180)


def order_and_die(folder: Path, servers: dict[str, str]) -> None:
    """Order over HTTP; the web process is killed right after the commit."""
    urls, port = folder / "shop/urls.py", free_ports(1)[0]
    text = urls.read_text()
    urls.write_text(text + DIES)
    with program(folder, servers, "web", "python3", "manage.py", "runserver", "--noreload", str(port)) as web:
        wait_until(lambda: answers(port), "the web server listens", 120)
        with pytest.raises(OSError, match=r"^(?!.*refused)"):
            urlopen(f"http://127.0.0.1:{port}/orders", b"email=ada@example.com", timeout=60)
        assert web.wait(60) == -signal.SIGKILL
    urls.write_text(text)
    assert invoices(folder, servers) == [""], "the order is committed"


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def invoices(folder: Path, servers: dict[str, str]) -> list[str]:
    """The invoices of all orders."""
    ask = 'from orders.models import Order\nprint([order.invoice for order in Order.objects.order_by("pk")])'
    said = run(folder, servers, "python3", "-c", f"{REQUESTS['django']}\n{ask}").splitlines()[-1]
    found: list[str] = literal_eval(said)
    return found


def test_a_web_process_that_dies_after_the_commit_loses_no_invoice(
    own_environment: dict[str, str], tmp_path: Path
) -> None:
    servers = own_environment
    shutil.copytree(ROOT / "examples/django", tmp_path, dirs_exist_ok=True)
    one_sentinel(tmp_path)
    run(tmp_path, servers, "python3", "manage.py", "migrate")
    order_and_die(tmp_path, servers)
    with (
        program(tmp_path, servers, "relay", *RELAYS["django"], "--metrics", address()),
        program(tmp_path, servers, "worker", "celery", "-A", "shop", "worker", "--concurrency", "1"),
    ):
        wanted = ["Invoice 1 for ada@example.com"]
        wait_until(lambda: invoices(tmp_path, servers) == wanted, "the order has its invoice", 180)


def test_stock_celery_loses_the_invoice(own_rig: OwnRig, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/django", tmp_path, dirs_exist_ok=True)
    take_back("django", tmp_path)
    assert own_rig.servers
    with (tmp_path / "shop/settings.py").open("a") as settings:
        settings.write(f'CELERY_BROKER_URL = "{own_rig.servers.broker_url}"\nCELERY_RESULT_BACKEND = None\n')
    run(tmp_path, {}, "python3", "manage.py", "migrate")
    order_and_die(tmp_path, {})
    with program(tmp_path, {}, "worker", "celery", "-A", "shop", "worker", "--concurrency", "1"):
        assert run(tmp_path, {}, "python3", "-c", f"{REQUESTS['django']}\nprint(order().status_code)").endswith("202\n")
        wait_until(lambda: "Invoice 2 for ada@example.com" in invoices(tmp_path, {}), "the next order has its own", 180)
        wait_until(lambda: own_rig.depth("celery") == (0, 0), "the second task is counted as done", 60)
        assert invoices(tmp_path, {}) == ["", "Invoice 2 for ada@example.com"], "the first task is nowhere"

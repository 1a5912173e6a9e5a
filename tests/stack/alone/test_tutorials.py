"""The applications of the tutorials with a worker, a relay and servers: each order gets its invoice."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from ...test_tutorials import REQUESTS
from ...tutorials import PAGES, environment, run, write
from ..servers import free_ports
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..servers import OwnRig

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

APPS = {"django": "shop", "fastapi": "shop.celery", "flask": "make_celery"}
RELAYS = {"django": ("python3", "manage.py", "relay")}


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
            process.wait(60)


@pytest.mark.parametrize("name", PAGES)
def test_an_order_gets_its_invoice_from_the_worker(name: str, own_rig: OwnRig, tmp_path: Path) -> None:
    servers = own_rig.servers_environment() | {"HOLDFAST_QUEUES": own_rig.queue, "REMAP_SIGTERM": "SIGQUIT"}
    servers["HOLDFAST_PULSE_DIR"] = str(tmp_path / "pulse")
    write(name, tmp_path)
    with (tmp_path / "shop/celery.py").open("a") as settings:  # there is one Sentinel
        settings.write('app.conf.result_backend_transport_options["min_other_sentinels"] = 0\n')

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

        wait_until(invoice, "the order has its invoice", 120)

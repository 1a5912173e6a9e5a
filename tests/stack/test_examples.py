"""The examples served over HTTP under faults: every order in the database gets its task; stock Celery loses some."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from .postgres import scratch_schema
from .publishing import leader
from .shop import EXAMPLES, Shop
from .stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .rig import Rig
    from .shop import Kept

pytestmark = pytest.mark.stack

KILLS = 3


@contextmanager
def virtual_host(rig: Rig, node: str) -> Iterator[str]:
    """A virtual host for stock Celery; its classic queue lives on the node whose death the test brings about."""
    name = f"stock-{rig.queue}"
    rig.api("PUT", f"vhosts/{name}", {"default_queue_type": "classic"})
    try:
        rig.api("PUT", f"permissions/{name}/admin", {"configure": ".*", "write": ".*", "read": ".*"})
        queue = {"durable": True, "node": f"rabbit@{node}", "arguments": {"x-queue-type": "classic"}}
        rig.api("PUT", f"queues/{name}/celery", queue)
        yield name
    finally:
        rig.api("DELETE", f"vhosts/{name}")


# the layer is the same below each framework: the tutorials' tests take an order through all of them
ALWAYS = "django"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == ALWAYS else pytest.mark.long) for name in EXAMPLES]
)
def test_orders_equal_tasks(name: str, rig: Rig, tmp_path: Path) -> None:
    node = leader(rig)
    with ExitStack() as running:
        host = running.enter_context(virtual_host(rig, node))
        servers = rig.servers_environment() | {
            "HOLDFAST_QUEUES": rig.queue,
            "HOLDFAST_PULSE_DIR": str(tmp_path / "pulse"),
        }
        stock = {"BROKER": servers["HOLDFAST_BROKER_URL"].replace("/holdfast", f"/{host}").replace(",", ";")}
        shops = [
            Shop(
                name, durable, tmp_path / kind, running.enter_context(scratch_schema(rig.stack.settings)),
                servers if durable else stock,
            )
            for kind, durable in (("holdfast", True), ("stock", False))
        ]  # fmt: skip
        workers = [running.enter_context(shop.open()) for shop in shops]
        for shop in shops:
            shop.works()
        kill_after_the_commit(shops)
        kill_the_leader(shops, rig, node)
        kill_the_workers(shops, workers)
        ours, theirs = shops
        for shop in shops:
            shop.close()
        wait_until(lambda: ours.lost() == 0, "every order has its invoice")
        counts = ("list_queues", "-p", host, "name", "messages")
        left = {"name": "celery", "messages": 0}  # its workers have queues of their own, too
        wait_until(lambda: left in rig.stack.rabbitmqctl(*counts), "stock Celery has no task left")
        for shop in shops:
            orders, invoiced = shop.orders()
            lost = {fault: shop.lost(fault) for fault in shop.phases}
            answered = len(shop.answered - invoiced)
            print(
                f"{shop}: {shop.sent} requests, {len(shop.answered)} answered 2xx; {len(orders)} orders, "
                f"{len(invoiced)} tasks, lost {shop.lost()} {lost}, of those answered 2xx {answered}"
            )
            assert shop.answered <= orders
        assert ours.lost() == 0
        # What it loses with the leader depends on the moment; a killed web process and worker are certain.
        assert theirs.lost() > theirs.lost("web") > 0


def kill_after_the_commit(shops: list[Shop]) -> None:
    """Kill processes of the web servers between the commit of an order and what follows it."""
    for shop in shops:
        with shop.during("web"):
            for _ in range(KILLS):
                (shop.folder / "die").touch()
                wait_until(partial(shop.lacks, "die"), f"{shop}: a process was killed")
                shop.works()


def kill_the_leader(shops: list[Shop], rig: Rig, node: str) -> None:
    """Kill the broker's node on which both queues have their leader; it is started again."""
    with ExitStack() as phases:
        for shop in shops:
            phases.enter_context(shop.during("leader"))
        started = rig.stack.state(node)["StartedAt"]
        rig.stack.kill(node)
        wait_until(lambda: rig.stack.state(node)["StartedAt"] != started, f"{node} is started again")
        rig.stack.wait_healthy(node)
        for shop in shops:
            shop.works()


def kill_the_workers(shops: list[Shop], workers: list[Kept]) -> None:
    """Kill each worker in the middle of its tasks."""
    for shop, worker in zip(shops, workers, strict=True):
        with shop.during("worker"):
            (shop.folder / "hold").touch()
            wait_until((shop.folder / "held").exists, f"{shop}: a task is at work")
            newest = shop.newest()
            # stock Celery acknowledges it in its main process, which may not have come to that yet
            wait_until(partial(shop.ordered, newest + 10), f"{shop}: orders go on")
            worker.kill()
            (shop.folder / "hold").unlink()
            shop.works()

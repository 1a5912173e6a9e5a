"""Results in a service of one address: a server confirms what it is asked for, or nothing counts as stored."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from redis import Redis

from holdfast.request import PutBack
from holdfast.results import DurableRedisBackend, ResultRefused

from .servers import answers, container, free_ports, image
from .stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.stack


@contextmanager
def server(*options: str) -> Iterator[int]:
    """Run a Redis until the end of the block and give its port."""
    (port,) = free_ports(1)
    shell = ("--network", "host", "--entrypoint", "redis-server", image("redis"))
    with container(*shell, "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options):
        with Redis(port=port) as client:
            wait_until(lambda: answers(client), "Redis answers")
        yield port


def store_at(port: int, **options: object) -> DurableRedisBackend:
    url = f"holdfast.results:DurableRedisBackend+redis://127.0.0.1:{port}/0"
    app = Celery("unit", broker="memory://", backend=url, set_as_current=False)
    app.conf.result_backend_transport_options = {"durable_patience": 0.2, "durable_wait": 2, **options}
    backend = app.backend
    assert isinstance(backend, DurableRedisBackend)
    return backend


def put_back(backend: DurableRedisBackend, task_id: str) -> str:
    """Return why a result does not count as stored."""
    with pytest.raises(PutBack) as caught:
        backend.store_result(task_id, 1, "SUCCESS")
    return str(caught.value)


def test_a_server_alone_stores_what_is_asked_of_it_and_no_more() -> None:
    with server("--appendonly", "yes") as port:
        assert "confirmed by 0 of 1 replicas" in put_back(store_at(port), "one")
        alone = store_at(port, durable_replicas=0)
        alone.store_result("two", 2, "SUCCESS")
        assert alone.get_task_meta("two", cache=False)["result"] == 2


def test_a_server_without_a_file_is_named_and_stores_when_it_is_allowed() -> None:
    with server("--appendonly", "no") as port:
        with pytest.raises(ResultRefused, match="HOLDFAST_RESULT_FSYNC=no"):
            store_at(port, durable_replicas=0).store_result("one", 1, "SUCCESS")
        store_at(port, durable_replicas=0, durable_fsync=False).store_result("two", 2, "SUCCESS")


def test_a_replica_in_memory_confirms() -> None:
    with server() as port, server("--replicaof", f"127.0.0.1 {port}") as replica:
        with Redis(port=replica) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica follows")
        store_at(port, durable_fsync=False).store_result("one", 1, "SUCCESS")
        two = store_at(port, durable_fsync=False, durable_replicas=2)
        assert "confirmed by 1 of 2 replicas" in put_back(two, "two")


def test_a_server_that_was_replaced_is_waited_out() -> None:
    """What a service does in a failover: the address leads to a server that takes no writes, then to the new one."""
    with server() as port, Redis(port=port) as client:
        store = store_at(port, durable_fsync=False, durable_replicas=0)
        store.store_result("one", 1, "SUCCESS")
        client.replicaof("127.0.0.1", "1")
        assert "ReadOnlyError" in put_back(store, "two")
        promoted = threading.Timer(1, client.replicaof, ("NO", "ONE"))
        promoted.start()
        waiting = store_at(port, durable_fsync=False, durable_replicas=0)
        waiting.patience.outside = 30
        waiting.store_result("two", 2, "SUCCESS")
        promoted.join()
        assert waiting.get_task_meta("two", cache=False)["result"] == 2

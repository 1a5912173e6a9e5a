"""Every login can do what ``tests/access.yml`` allows it, and nothing else that it names: the servers are asked."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError

from ..servers import answers, container, free_ports
from ..stack import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack

ACCESS: dict[str, Any] = yaml.safe_load((ROOT / "tests/access.yml").read_text(encoding="utf-8"))
SENTINEL = """
printf 'port %s\\naclfile /users.acl\\nsentinel monitor results 127.0.0.1 1 1\\n' $0 >/tmp/sentinel.conf
exec redis-sentinel /tmp/sentinel.conf
"""
START = {"redis": "redis-server --port $0 --bind 127.0.0.1 --save '' --aclfile /users.acl", "sentinel": SENTINEL}


@pytest.fixture(scope="module", params=START)
def server(request: pytest.FixtureRequest, store: str, filled: Path) -> Iterator[tuple[str, Redis]]:
    """A Redis or a Sentinel with the rendered users, and a client of its administrator."""
    [port] = free_ports(1)
    users = ("--volume", f"{filled}/{request.param}/users.acl:/users.acl:ro")
    shell = ("--network", "host", "--entrypoint", "sh", *users, store, "-c", START[request.param])
    password = (filled / "passwords/REDIS_ADMIN_PASSWORD").read_text(encoding="utf-8").strip()
    with container(*shell, str(port)):
        admin = Redis(port=port, username="admin", password=password, decode_responses=True)
        wait_until(lambda: answers(admin), f"{request.param} answers", 60)
        yield request.param, admin


def test_the_users_are_those_of_the_table(server: tuple[str, Redis]) -> None:
    name, admin = server
    found: Any = admin.acl_list()
    rules = {user: rest for _, user, rest in (line.split(" ", 2) for line in found)}
    assert rules.pop("default").startswith("off ")
    assert rules.keys() == ACCESS[name]["users"].keys()


def test_a_restart_reads_transactions_and_scripts_too(store: str, filled: Path) -> None:
    """A server with the rendered users has after a restart what it had before; nobody gets in without a login."""
    [port] = free_ports(1)
    start = f"{START['redis']} --appendonly yes --appendfsync always --dir /tmp"
    users = ("--volume", f"{filled}/redis/users.acl:/users.acl:ro")
    password = (filled / "passwords/REDIS_WORKER_PASSWORD").read_text(encoding="utf-8").strip()
    worker = Redis(port=port, username="worker", password=password, decode_responses=True)
    names = ["alone", "first", "second", "third", "fourth"]
    keys = [f"celery-task-meta-{name}" for name in names]
    with container("--network", "host", "--entrypoint", "sh", *users, store, "-c", start, str(port)) as server:
        wait_until(lambda: answers(worker), "Redis answers", 60)
        worker.set(keys[0], "x")
        with worker.pipeline(transaction=True) as pipe:
            pipe.set(keys[1], "x")
            pipe.set(keys[2], "x")
            pipe.execute()
        worker.eval("redis.call('SET', KEYS[1], 'x') redis.call('SET', KEYS[2], 'x')", 2, *keys[3:])
        subprocess.run(["docker", "restart", "--time", "5", server], check=True, capture_output=True)
        wait_until(lambda: answers(worker), "Redis answers again", 60)
        assert worker.mget(keys) == ["x"] * len(keys)
        with pytest.raises(AuthenticationError):
            Redis(port=port).get(keys[0])


def test_each_user_has_its_operations_and_no_other(server: tuple[str, Redis]) -> None:
    name, admin = server
    wrong = []
    for row in ACCESS[name]["operations"]:
        for user in ACCESS[name]["users"]:
            said = str(admin.execute_command("ACL", "DRYRUN", user, *shlex.split(row["command"])))
            if (said == "OK") is not (user in row["may"]):
                wrong.append(f"{user}: {row['what']}: {said}")
    assert wrong == []

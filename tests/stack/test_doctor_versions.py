"""``celery-doctor --live`` beside the oldest releases of Celery, on the stack and on a Redis broker."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis

from doctor.tests.test_matrix import PYTHONS, interpreter, uv, wheel

from .servers import container, free_ports, image
from .stack import made, password, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .stack import Stack

__all__ = ["wheel"]  # a fixture
pytestmark = pytest.mark.stack

RABBIT = """
import os
from celery import Celery
from kombu import Exchange, Queue
app = Celery("shop", broker=os.environ["HOLDFAST_BROKER_URL"].replace(",", ";"))
app.conf.broker_login_method = "PLAIN"  # kombu 4 would choose another one, which the stack does not offer
tasks, quorum = Exchange("tasks", type="topic"), {"x-queue-type": "quorum"}
names = ["default", "critical", *filter(None, os.environ.get("ABSENT", "").split())]
app.conf.task_queues = [Queue(name, tasks, routing_key=name, queue_arguments=quorum) for name in names]
app.conf.task_default_queue = "default"
app.conf.result_backend = os.environ["HOLDFAST_RESULT_URL"].replace(",", ";")
login = {"username": os.environ["HOLDFAST_SENTINEL_USERNAME"], "password": os.environ["HOLDFAST_SENTINEL_PASSWORD"]}
app.conf.result_backend_transport_options = {"master_name": "results", "sentinel_kwargs": login}
"""
REDIS = """
import os
from celery import Celery
app = Celery("shop", broker=os.environ["REDIS"] + "/1", backend=os.environ["REDIS"] + "/0")
app.conf.broker_transport_options = {"visibility_timeout": 3600}
"""
UNSAFE = {"HF902", "HF903", "HF904", "HF906"}  # of a Redis that keeps nothing and has no replica
MESSAGE = json.dumps([{"body": "", "headers": {"task": "shop.invoice"}, "properties": {}}, "", "celery"])


class Beside:
    """The doctor in an environment with one Celery."""

    def __init__(self, folder: Path, wheel: Path, celery: str, python: str) -> None:
        self.folder = folder / "venv"
        uv("venv", "--quiet", "--python", interpreter(python), self.folder)
        packages = (
            f"celery[redis]=={celery}",
            "packaging",
            "setuptools<81",
        )  # an old Celery does not ask for the second
        uv("pip", "install", "--quiet", "--python", self.folder, *packages, wheel)
        (self.folder / "rabbit.py").write_text(RABBIT, encoding="utf-8")
        (self.folder / "kept.py").write_text(REDIS, encoding="utf-8")

    def judge(self, app: str, *options: str, **environment: str) -> dict[str, list[str]]:
        """Return what the rules on running servers found; none may be without an answer."""
        done = subprocess.run(
            [self.folder / "bin/celery-doctor", "-A", app, "--live", "--json", *options],
            cwd=self.folder, env=os.environ | environment, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        if unanswered := [one for one in report["findings"] if one["state"] != "found"]:
            raise ValueError(unanswered)
        found: dict[str, list[str]] = {}
        for one in report["findings"]:
            if one["rule"].startswith(("HF8", "HF9")):
                found.setdefault(one["rule"][:5], []).append(one["found"])
        return found


@contextmanager
def kept() -> Iterator[str]:
    """Run a Redis that needs no login, which kombu 4 would give without the name of the user."""
    (port,) = free_ports(1)
    command = ("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "")
    with container("--network", "host", image("redis"), *command):
        client = redis.Redis(port=port)
        wait_until(lambda: answers(client), "Redis answers")
        yield f"redis://127.0.0.1:{port}"


def answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize(("celery", "python"), [(celery, PYTHONS[celery][0]) for celery in ("4.4.7", "5.2.7")])
def test_it_asks_the_running_servers(celery: str, python: str, stack: Stack, wheel: Path, tmp_path: Path) -> None:
    beside = Beside(tmp_path, wheel, celery, python)
    environment = made()["environment"]["worker"]
    primary = stack.address(stack.redis_primary())
    options = (
        "--management", f"http://admin:{password('RABBITMQ_ADMIN_PASSWORD')}@{stack.address('rabbit1')}:15672",
        "--redis", f"redis://admin:{password('REDIS_ADMIN_PASSWORD')}@{primary}:6379",
    )  # fmt: skip

    def sound() -> bool:
        found = beside.judge("rabbit", *options, **environment)
        if found.keys() != {"HF910"}:  # an older Celery logs in to Redis without the name of the user
            raise ValueError(found)
        return True

    wait_until(sound, "nothing is found but that", 240)
    admin = f"amqp://admin:{password('RABBITMQ_ADMIN_PASSWORD')}@{stack.address('rabbit1')}:5672/holdfast"
    absent = beside.judge("rabbit", *options, **environment | {"HOLDFAST_BROKER_URL": admin, "ABSENT": "not-there"})
    assert absent["HF802"] == ["queue not-there is not there"]

    with kept() as url, redis.Redis.from_url(f"{url}/1") as client:
        found = beside.judge("kept", REDIS=url)
        assert set(found) >= UNSAFE
        assert "HF912" not in found
        client.zadd("unacked_index", {"tag": 1.0})
        client.hset("unacked", "tag", MESSAGE)
        (overdue,) = beside.judge("kept", REDIS=url)["HF912"]
        assert overdue.startswith("broker: 1 delivered and not acknowledged within 3600 s")
        assert overdue.endswith("(shop.invoice)")

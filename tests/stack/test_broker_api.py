"""What the definitions are to nodes of ours is declared at a service over its management API, and compared with it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Exchange

from .rig import VHOST
from .servers import LOGIN, RABBITMQ, container, free_ports, image, wait_for_broker
from .stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.stack

MODULES = ROOT / "ansible/plugins/modules"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A broker of this test's own; the ports of AMQP and of its API."""
    folder = tmp_path_factory.mktemp("service")
    conf = folder / "rabbitmq.conf"
    conf.write_text(RABBITMQ, encoding="utf-8")
    conf.chmod(0o644)
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    amqp, api = free_ports(2)
    publish = ("--publish", f"127.0.0.1:{amqp}:5672", "--publish", f"127.0.0.1:{api}:15672")
    with container(*publish, "--volume", f"{conf}:/etc/rabbitmq/rabbitmq.conf:ro", image("rabbitmq")):
        wait_for_broker(f"amqp://{LOGIN}:{LOGIN}@127.0.0.1:{amqp}/{VHOST}")
        yield amqp, api


def definitions(vhost: str) -> dict[str, Any]:
    """Return the rendered topology for a virtual host, with one user."""
    text = (ROOT / "compose/config/rabbitmq/definitions/10-topology.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    for kind in ("exchanges", "queues", "bindings", "policies"):
        found[kind] = [{**one, "vhost": vhost} for one in found[kind]]
    found["vhosts"][0]["name"] = vhost
    found["users"] = [{"name": "app", "tags": [], "hashing_algorithm": "rabbit_password_hashing_sha256"}]
    found["permissions"] = [{"user": "app", "vhost": vhost, "configure": "^$", "write": "^tasks$", "read": "^$"}]
    return found


def call(api: int, *, check: bool = False, **more: Any) -> dict[str, Any]:
    """Run the module and return its answer."""
    arguments = {
        "url": f"http://127.0.0.1:{api}", "user": LOGIN, "password": LOGIN, "minimum_version": "4.3.5",
        "hashes": {"app": "cGFzc3dvcmQgb2YgdGhlIGFwcGxpY2F0aW9uIQ=="}, "policy_keys_refused": ["target-group-size"],
        "_ansible_check_mode": check, **more,
    }  # fmt: skip
    done = subprocess.run(
        [ROOT / ".venv/bin/python", MODULES / "broker_api.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), env=os.environ, check=False, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_design_is_declared_once_and_a_difference_is_seen(broker: tuple[int, int]) -> None:
    _, api = broker
    wanted = definitions("shop")
    foretold = call(api, check=True, definitions=wanted)
    assert foretold["changed"]
    first = call(api, definitions=wanted)
    assert first["changes"] == foretold["changes"]
    assert {"virtual host shop", "queue default", "policy tasks", "user app", "permissions of app"} <= {
        *first["changes"]
    }
    again = call(api, definitions=wanted)
    assert (again["changed"], again["changes"]) == (False, [])
    wanted["policies"][0]["definition"]["delivery-limit"] = 7
    assert call(api, check=True, definitions=wanted)["changes"] == ["policy tasks"]


def test_what_cannot_hold_tasks_is_a_finding(broker: tuple[int, int]) -> None:
    checks = {one["check"]: one for one in call(broker[1])["checks"]}
    assert checks["version of the service"]["ok"]
    assert checks["alarms of the service"]["ok"]
    assert not checks["running nodes of the service"]["ok"], "it is one node"
    old = call(broker[1], minimum_version="99.0.0")["checks"]
    assert not next(one for one in old if one["check"] == "version of the service")["ok"]


def test_a_queue_of_another_type_is_refused_before_anything_is_changed(broker: tuple[int, int]) -> None:
    amqp, api = broker
    call(api, definitions={**definitions("other"), "queues": [], "bindings": [], "exchanges": [], "policies": []})
    with Connection(f"amqp://{LOGIN}:{LOGIN}@127.0.0.1:{amqp}/other") as connection:
        connection.default_channel.queue_declare(
            "default", durable=True, auto_delete=False, arguments={"x-queue-type": "classic"}
        )
        said = call(api, definitions=definitions("other"))
        assert said["failed"]
        assert "queue default with arguments {'x-queue-type': 'classic'}" in said["msg"]
        assert "next:" in said["msg"]
        with pytest.raises(connection.channel_errors):
            Exchange("tasks", "topic", passive=True)(connection.default_channel).declare()


def test_a_login_that_the_service_refuses_is_named(broker: tuple[int, int]) -> None:
    said = call(broker[1], password="wrong")  # noqa: S106 - it is wrong
    assert "as scratch: 401" in said["msg"]
    assert "next:" in said["msg"]

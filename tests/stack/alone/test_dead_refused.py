"""A dead letter that no broker takes any more does not keep the others from being replayed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ..rig import VHOST
from ..stack import wait_until

if TYPE_CHECKING:
    from ..servers import OwnRig

pytestmark = pytest.mark.stack


def bury(rig: OwnRig, exchange: str) -> None:
    """Let a message die that came through an exchange of another application."""
    other, (before, _) = f"{rig.queue}-other", rig.depth(rig.dead)
    arguments = {"x-message-ttl": 0, "x-dead-letter-exchange": rig.dead}
    rig.api("PUT", f"exchanges/{VHOST}/{exchange}", {"type": "fanout"})
    rig.api("PUT", f"queues/{VHOST}/{other}", {"durable": True, "arguments": arguments})
    rig.api("POST", f"bindings/{VHOST}/e/{exchange}/q/{other}", {"routing_key": ""})
    message = {"routing_key": "", "payload": "[[], {}, {}]", "payload_encoding": "string", "properties": {}}
    rig.api("POST", f"exchanges/{VHOST}/{exchange}/publish", message)
    wait_until(lambda: rig.depth(rig.dead)[0] > before, "it is dead")
    rig.api("DELETE", f"queues/{VHOST}/{other}")


def test_a_letter_that_is_refused_stays_and_the_others_are_replayed(own_rig: OwnRig) -> None:
    gone, unbound = f"{own_rig.queue}-gone", f"{own_rig.queue}-unbound"
    bury(own_rig, gone)
    bury(own_rig, unbound)
    own_rig.api("DELETE", f"exchanges/{VHOST}/{gone}")
    try:
        with own_rig.worker():
            own_rig.call("odd.apply_async(task_id='t')")
            wait_until(lambda: own_rig.depth(own_rig.dead)[0] == 3, "the task has failed", 120)
        command = ["dead", "-A", "scratch", "--queue", own_rig.dead, "replay", "--all"]
        done = subprocess.run(
            [sys.executable, "-c", "from holdfast.cli import main; main()", *command],
            env=own_rig.environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        own_rig.api("DELETE", f"exchanges/{VHOST}/{unbound}")
    assert "replayed t\n1 replayed." in done.stdout, done.stderr
    assert done.stderr.count("not replayed") == 2
    assert gone in done.stderr
    assert "NO_ROUTE" in done.stderr
    assert done.returncode == 1
    assert own_rig.depth()[0] == 1
    wait_until(lambda: own_rig.depth(own_rig.dead)[0] == 2, "the other two are back", 60)

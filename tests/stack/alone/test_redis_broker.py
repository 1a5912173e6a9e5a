"""Redis as the broker, with the login that the templates give the application there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..servers import OwnRig, Servers

pytestmark = pytest.mark.stack

CODE = """
import json
from holdfast.results import get
found = [get(echo.delay("now"), 60), get(echo.apply_async(("later",), countdown=2), 60)]
first = {"timeout": 60, "limit": 1}  # the first answer ends the wait
print(json.dumps([found, len(app.control.ping(**first)), len(app.control.inspect(**first).active())]))
"""


def test_tasks_and_remote_control_need_no_other_right(own_rig: OwnRig, servers: Servers) -> None:
    """That nothing was refused is looked at by the rig."""
    profile: dict[str, Any] = {"HOLDFAST_BROKER_URL": servers.redis_url("broker", 1), "HOLDFAST_QUEUES": "default"}
    with own_rig.worker(**profile), own_rig.process("events", "--dump", **profile) as events:
        events.wait_for("heartbeat", 120)  # it listens
        assert json.loads(own_rig.call(CODE, **profile)) == [["now", "later"], 1, 1]
        events.wait_for("succeeded", 60)

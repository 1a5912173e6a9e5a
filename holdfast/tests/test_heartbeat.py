"""What the main loop's heartbeat takes for work; that it writes and asks is tested against real brokers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.heartbeat import Heartbeat
from holdfast.metrics import processes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A consumer that is connected to a broker of AMQP and consumes from one queue."""
    monkeypatch.setenv("HOLDFAST_PULSE_DIR", str(tmp_path))
    monkeypatch.setattr(processes, "show", lambda _pulse: None)
    channel = SimpleNamespace(_callbacks={}, send_method=lambda *_: None)
    return SimpleNamespace(
        hostname="unit@host",
        pool=None,
        steps=[],
        timer=SimpleNamespace(call_repeatedly=lambda *_: None),
        connection=SimpleNamespace(transport=SimpleNamespace(driver_type="amqp"), channel=lambda: channel),
        task_consumer=SimpleNamespace(queues=[SimpleNamespace(name="q")]),
    )


def test_a_worker_that_is_handed_messages_and_runs_none_is_not_starved(c: Any) -> None:
    beat = Heartbeat(c)
    beat.start(c)
    for handed in (1, 0, 1):  # of a backlog that has expired, say
        beat._declared("q", 5, 1)
        beat.received += handed
        beat._beat(c)
        assert (beat.pulse.starved is None) == bool(handed)

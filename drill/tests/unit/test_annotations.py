"""What Prometheus reads of a drill that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx

from drill.run.annotations import Annotations

if TYPE_CHECKING:
    from pathlib import Path


def test_a_running_drill_announces_itself_and_its_faults(tmp_path: Path) -> None:
    annotations = Annotations(tmp_path, "127.0.0.1")
    annotations.start()
    try:
        (entry,) = json.loads((tmp_path / "drill.json").read_text())
        (target,) = entry["targets"]
        annotations.show("worker-pause", lasts=True)
        assert 'holdfast_drill_fault{fault="worker-pause"} 1.0' in httpx.get(f"http://{target}/metrics").text
        annotations.show("worker-pause", lasts=False)
        assert 'holdfast_drill_fault{fault="worker-pause"} 0.0' in httpx.get(f"http://{target}/metrics").text
    finally:
        annotations.stop()
    assert not list(tmp_path.iterdir())


def test_without_a_prometheus_that_looks_for_it_nothing_is_served(tmp_path: Path) -> None:
    annotations = Annotations(tmp_path / "missing", "127.0.0.1")
    annotations.start()
    annotations.show("worker-pause", lasts=True)
    annotations.stop()
    assert not list(tmp_path.iterdir())

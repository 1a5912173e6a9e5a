"""An alert counts for a fault when it came after it, in time, and went."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from drill.faults import REGISTRY
from drill.faults.record import Fault
from drill.judge import alerts
from drill.judge.alerts import Span, Watch, judge

RULES = " ".join(path.read_text() for path in (Path(__file__).parents[3] / "monitoring/rules").glob("*.yml"))
LIMITS = {"broker-outage": 50.0}


def outage(key: str, at: float) -> Fault:
    """Return an outage that lasts for a minute."""
    return Fault(key, "broker-outage", ["rabbit1"], apply_at=at, applied_at=at + 1, heal_at=at + 60, healed_at=at + 70)


def test_faults_and_alerts_of_the_map_exist() -> None:
    assert alerts.EXPECTED.keys() <= REGISTRY.keys()
    assert set(alerts.EXPECTED.values()) <= set(re.findall(r"alert: (\w+)", RULES))


@pytest.mark.parametrize(
    ("spans", "after", "resolved", "good"),
    [
        ([Span("BrokerDown", 141, 185)], 40, 15, True),
        ([Span("BrokerDown", 160, 185)], 59, 15, False),
        ([Span("BrokerDown", 141, None)], 40, None, False),
        ([Span("BrokerDown", 90, 185)], None, None, False),
        ([Span("QuorumLost", 141, 185)], None, None, False),
        ([], None, None, False),
    ],
    ids=["in time", "late", "still there", "from before", "another one", "never"],
)
def test_an_alert_comes_in_time_and_goes(
    spans: list[Span], after: float | None, resolved: float | None, good: bool
) -> None:
    outcome = judge([outage("1", 100)], spans, LIMITS)["1"]
    assert (outcome.after, outcome.resolved, outcome.good) == (after, resolved, good)


def test_the_next_faults_alert_is_not_this_ones() -> None:
    found = judge([outage("1", 100), outage("2", 300)], [Span("BrokerDown", 341, 365)], LIMITS)
    assert (found["1"].after, found["2"].after) == (None, 40)


def test_a_fault_that_heals_by_itself_has_no_outcome() -> None:
    assert judge([Fault("1", "worker-child-kill", ["worker1"], apply_at=1, applied_at=2)], [], LIMITS) == {}


def test_a_run_without_a_fault_has_no_outcome() -> None:
    assert judge([], [Span("BrokerDown", 141, 185)], LIMITS) == {}


def test_samples_of_all_labels_become_spans() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        data: dict[str, Any] = {
            "groups": [{"interval": 5, "rules": [{"name": "BrokerDown", "duration": 30}]}],
            "activeTargets": [{"scrapeInterval": "10s"}, {"scrapeInterval": "0m5s"}],
        }
        if "query" in request.url.params:
            names = [("rabbit1", [100, 110, 120]), ("rabbit2", [115, 125]), ("rabbit1", [300, 310])]
            data = {
                "result": [
                    {"metric": {"alertname": "BrokerDown", "instance": name}, "values": [[at, "1"] for at in times]}
                    for name, times in names
                ]
            }
        return httpx.Response(200, json={"data": data})

    watch = Watch(httpx.Client(transport=httpx.MockTransport(answer), base_url="http://prometheus"))
    assert watch.allowed("broker-outage") == 50
    assert watch.allowed("worker-child-kill") == 0
    assert watch.spans(0, 315) == [Span("BrokerDown", 100, 125), Span("BrokerDown", 300, None)]

"""The page stands alone and shows what the verdict says."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from histories import fault, healthy, lose

from drill import report
from drill.faults.record import Bound
from drill.judge import checker
from drill.judge.alerts import Span
from drill.report.page import _marks

if TYPE_CHECKING:
    from pathlib import Path


def test_the_page_needs_no_network_and_the_json_has_the_counts(tmp_path: Path) -> None:
    history = healthy(50)
    history.faults = [fault(bounds=[Bound("publish", 100, "apply", "a <formula>")])]
    history.samples = [{"at": 1.0, "ready": 3, "unacked": 1, "delayed": 0}]
    history.meta = {"versions": {"RabbitMQ": "4.3.6"}, "options": {"seed": 7, "rate": 20}}
    report.write(history, checker.judge(history), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?(https?:)?//", page)
    assert "Nothing was lost" in page
    assert "4.3.6" in page
    assert page.count('<rect class="shade"') == 1
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["verdict"], content["counts"]["acknowledged"], content["counts"]["lost"]) == ("pass", 50, 0)
    assert content["faults"][0]["timings"][0]["ratio"] < 1


@pytest.mark.parametrize("drained", [True, False])
def test_a_loss_is_in_the_headline(tmp_path: Path, drained: bool) -> None:
    history = healthy()
    history.drained = drained
    lose(history)
    report.write(history, checker.judge(history), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert ("The promise was broken" if drained else "This run proves nothing") in page


def test_names_are_escaped(tmp_path: Path) -> None:
    history = healthy()
    history.faults = [fault(problem="<script>alert(1)</script>")]
    report.write(history, checker.judge(history), tmp_path)
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_the_page_says_which_alert_came_and_when(tmp_path: Path) -> None:
    history = healthy()
    history.faults = [fault(name="broker-outage", apply_at=10, applied_at=10, heal_at=70, healed_at=75)]
    history.alert_limits, history.alerts = {"broker-outage": 50.0}, [Span("BrokerDown", 48, 90)]
    report.write(history, checker.judge(history), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '<span class="ok">after 38 s (50 s), gone 15 s after healing</span>' in page
    assert json.loads((tmp_path / "report.json").read_text())["faults"][0]["alert"]["good"]


def test_numbers_of_faults_do_not_lie_on_each_other() -> None:
    drawn = _marks([(50.0, "1"), (55.0, "2"), (70.0, "3")])
    assert [number for number in "123" if f">{number}<" in drawn] == ["1", "3"]

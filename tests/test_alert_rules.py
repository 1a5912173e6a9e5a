"""Every alert says what it means, what it links to, and is tested; Alertmanager knows the names that it silences."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MONITORING = ROOT / "monitoring"
COMPONENTS = {"brokers", "tasks", "publishing", "results", "hosts", "monitoring"}


def rules() -> list[dict[str, Any]]:
    """Return every rule of every file."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((MONITORING / "rules").glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]
NAMES = {rule["alert"] for rule in ALERTS}
THRESHOLDS = {rule["labels"]["name"] for rule in rules() if rule.get("record") == "holdfast:threshold"}
CASES = [
    case
    for path in sorted((MONITORING / "tests").glob("*.yml"))
    for test in yaml.safe_load(path.read_text())["tests"]
    for case in test["alert_rule_test"]
]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_is_complete(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ({"none"} if rule["alert"] == "Watchdog" else {"critical", "warning"})
    assert rule["labels"]["component"] in COMPONENTS
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbooks }}}}/{rule['alert']}.md"
    assert re.fullmatch(r"\{\{ \$externalLabels\.grafana \}\}/d/holdfast-[a-z]+", rule["annotations"]["dashboard_url"])


def test_every_dashboard_that_an_alert_links_to_exists() -> None:
    linked = {rule["annotations"]["dashboard_url"].rpartition("/")[2] for rule in ALERTS}
    assert linked <= {json.loads(path.read_text())["uid"] for path in (MONITORING / "dashboards").glob("*.json")}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_alert_is_tested_both_ways(name: str) -> None:
    expected = [case["exp_alerts"] for case in CASES if case["alertname"] == name]
    severities = {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name}
    assert {alert["exp_labels"]["severity"] for alerts in expected for alert in alerts} == severities
    assert any(len(alerts) < max(map(len, expected)) for alerts in expected), "no case in which it is silent"


def test_no_number_is_compared_outside_of_the_thresholds() -> None:
    """0 and 1 are no choice: nothing, something, one too many."""
    for rule in ALERTS:
        bare = re.findall(r"(?:[<>]=?|==)\s*([0-9.]+)", re.sub(r"\{[^}]*\}", "", rule["expr"]))
        assert set(bare) <= {"0", "1"}, f"{rule['alert']}: {bare}"


def test_every_threshold_is_there_and_used() -> None:
    used = {name for rule in rules() for name in re.findall(r'holdfast:threshold\{name="(\w+)"', rule["expr"])}
    assert used == THRESHOLDS


def test_every_recorded_series_is_used() -> None:
    text = " ".join(rule["expr"] for rule in rules())
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for name in recorded if name not in text} == set()
    assert set(re.findall(r"holdfast:[a-z_]+(?::[a-z]+)?", text)) == recorded


def test_alertmanager_silences_alerts_that_exist() -> None:
    file = yaml.safe_load((ROOT / "compose/config/secret/alertmanager/alertmanager.yml").read_text())
    for rule in file["inhibit_rules"]:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            found = re.fullmatch(r'(\w+) (?:!?=~?) "(.+)"', matcher)
            assert found, matcher
            label, value = found.groups()
            known = {"alertname": NAMES, "component": COMPONENTS}.get(label)
            assert known is None or set(value.split("|")) <= known, matcher

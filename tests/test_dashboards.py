"""The committed dashboards are what Grafana's own models know, complete, and free of names of one deployment."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "monitoring/dashboards"
DASHBOARDS = sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    """Return a committed dashboard."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content


def lost(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Return every place of ``ours`` that is missing or different in ``theirs``."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [one for key in ours for one in lost(ours[key], theirs.get(key), f"{where}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [one for number, (a, b) in pairs for one in lost(a, b, f"{where}[{number}]")]
    return [] if ours == theirs else [where]


def test_there_is_one_for_every_source() -> None:
    assert sorted(path.stem for path in FOLDER.glob("source/*.yml")) == DASHBOARDS
    assert len({load(name)["uid"] for name in DASHBOARDS}) == len(DASHBOARDS) == 5


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafana_s_models_know_every_field(name: str) -> None:
    ours = load(name)
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
    # the two fields of an annotation that belong to the plugin of Prometheus, not to the dashboard
    assert [place for place in lost(ours, theirs) if not re.search(r"annotations.*\.(step|titleFormat)$", place)] == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_a_place_a_title_and_queries_of_the_chosen_source(name: str) -> None:
    dashboard = load(name)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert sum(each["type"] == "datasource" for each in dashboard["templating"]["list"]) == 1
    sources = set(re.findall(r'"uid": "([^"]+)"', json.dumps(dashboard))) - {dashboard["uid"]}
    assert sources == {"${datasource}"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_host_and_no_unknown_variable_is_named(name: str) -> None:
    dashboard = load(name)
    text = json.dumps(dashboard)
    assert not re.search(r"\b(?:rabbit|redis|sentinel|worker|beat)[1-9]|\d+\.\d+\.\d+\.\d+|vhost=\\*\"holdfast", text)
    offered = {each["name"] for each in dashboard["templating"]["list"]} | {"__rate_interval"}
    assert {first or second for first, second in re.findall(r"\$(?:\{(\w+)\}|(\w+))", text)} - {"__all"} <= offered


def test_the_links_of_the_alerts_lead_to_a_dashboard() -> None:
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "monitoring/rules").glob("*.yml"))
    linked = set(re.findall(r"/d/([\w-]+)", rules))
    assert linked
    assert linked <= {load(name)["uid"] for name in DASHBOARDS}


def test_the_overview_fits_a_screen() -> None:
    below = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in load("overview")["panels"])
    assert below <= 24, "rows of 38 pixels: what a screen of 1080 shows"

"""Build the Grafana dashboards beside this file from ``source/*.yml``: ``build.py [--check]``.

A source names what matters (titles, queries, units, limits); everything that Grafana wants besides stands here once.
A panel's ``empty`` is the reason why its query may return nothing on a healthy stack: shown to the reader, and the
only excuse that the live test accepts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}  # the variable: any data source of the reader's
COLUMNS = 24  # of Grafana's grid
# type in the source: Grafana's type, width, height
TYPES = {
    "stat": ("stat", 4, 3),
    "lines": ("timeseries", 8, 7),
    "states": ("state-timeline", 8, 7),
    "table": ("table", 12, 7),
}
ANNOTATIONS = {
    # what the drill breaks: a series that it writes while a fault lasts
    "Drill": ("max by (fault) (holdfast_drill_fault) == 1", "{{fault}}", "purple"),
    "Critical alerts": ('ALERTS{alertstate="firing", severity="critical"}', "{{alertname}}", "red"),
}


def queries(panel: dict[str, Any]) -> list[dict[str, str]]:
    """Return the queries of a panel of the source, each with ``expr`` and perhaps ``legend``."""
    found: list[dict[str, str]] = panel.get("queries") or [panel]
    return found


def _steps(panel: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the colours of a panel: from the value on, up to the next one."""
    steps = panel.get("steps") or {"base": "green"} | {
        panel[colour]: colour for colour in ("orange", "red") if colour in panel
    }
    return [{"color": colour, "value": None if value == "base" else value} for value, colour in steps.items()]


def _looks(panel: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the field defaults and the options of a panel by its type."""
    defaults: dict[str, Any] = {"unit": panel.get("unit", "short")}
    match panel["type"]:
        case "stat":
            # half a message is none: increase() extrapolates
            defaults |= {"decimals": 0 if "unit" not in panel else 1}
            defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": _steps(panel)}}
            reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return defaults, {"colorMode": "background", "graphMode": "area", "reduceOptions": reduced}
        case "states":
            names = panel.get("labels") or {0: "no", 1: "yes"}
            colours = {0: "blue", 1: "green"} if "labels" in panel else {0: "red", 1: "green"}
            shown = {
                str(value): {"text": name, "color": colours[value], "index": value} for value, name in names.items()
            }
            defaults |= {"mappings": [{"type": "value", "options": shown}]}
            return defaults, {
                "mergeValues": True,
                "showValue": "never",
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            }
        case "table":
            return defaults, {"showHeader": True}
        case _:
            defaults |= {"min": 0, "custom": {"fillOpacity": 5, "lineWidth": 1, "showPoints": "never"}}
            return defaults, {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


def _targets(panel: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the queries of a panel as Grafana keeps them."""
    now = panel["type"] == "table"
    return [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": query["expr"],
            "legendFormat": query.get("legend", panel["title"]),
            "instant": now,
            "range": not now,
            "format": "table" if now else "time_series",
        }
        for number, query in enumerate(queries(panel))
    ]


def _panel(panel: dict[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
    """Return a panel as Grafana keeps it."""
    defaults, options = _looks(panel)
    text = " ".join(filter(None, [panel.get("text"), panel.get("empty") and f"May be empty: {panel['empty']}"]))
    return {
        "id": number,
        "type": TYPES[panel["type"]][0],
        "title": panel["title"],
        "description": text,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": _targets(panel),
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    """Return a variable that offers the values of a label, all of them chosen."""
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def build(source: dict[str, Any]) -> dict[str, Any]:
    """Return the dashboard of a source, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in source["rows"]:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row["title"], "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}})  # fmt: skip
        top, left, tall = top + 1, 0, 0
        for panel in row["panels"]:
            _, width, height = TYPES[panel["type"]]
            width, height = panel.get("width", width), row.get("height", height)
            if left + width > COLUMNS:
                top, left, tall = top + tall, 0, 0
            place = {"x": left, "y": top, "w": width, "h": height}
            panels.append(_panel(panel, len(panels) + 1, place))
            left, tall = left + width, max(tall, height)
        top += tall
    first = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "uid": source["uid"],
        "title": source["title"],
        "tags": ["holdfast"],
        "editable": False,
        "graphTooltip": 1,  # one crosshair through all panels
        "refresh": "10s",
        "schemaVersion": 41,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "tags": ["holdfast"],
                "title": "Holdfast",
                "asDropdown": False,
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
                "icon": "",
                "tooltip": "",
            }
        ],
        "annotations": {
            "list": [
                {
                    "name": name,
                    "datasource": SOURCE,
                    "enable": True,
                    "hide": False,
                    "iconColor": colour,
                    "expr": expr,
                    "step": "10s",
                    "titleFormat": title,
                }
                for name, (expr, title, colour) in ANNOTATIONS.items()
            ]
        },
        "templating": {"list": [first, *(_variable(*each) for each in source["variables"].items())]},
        "panels": panels,
    }


def sources() -> dict[str, dict[str, Any]]:
    """Return the sources by the name of their file, without its ending."""
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("source/*.yml"))}


def main(arguments: list[str]) -> int:
    """Write the dashboards; with ``--check`` only say which are not what their sources say, and return 1."""
    stale = []
    for name, source in sources().items():
        path = HERE / f"{name}.json"
        text = json.dumps(build(source), indent=2) + "\n"
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path))
    if stale:
        sys.stderr.write(
            f"found:   {', '.join(stale)} differ from monitoring/dashboards/source\n"
            "allowed: dashboards that 'make render' wrote\n"
            "next:    change the source, then run 'make render' and commit both\n"
        )
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

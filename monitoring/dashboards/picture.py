"""Draw the dashboards for the documentation: ``picture.py PROMETHEUS FOLDER``, an SVG each.

Drawn from the committed JSON and the last half hour of a live Prometheus: places, titles and numbers are the
dashboards' own, the look is a sketch of Grafana's.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 50, 32  # pixels of a cell of the grid
SECONDS, STEP = 1800, 20
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d")


def ask(prometheus: str, expr: str) -> list[dict[str, Any]]:
    """Return the series of a query, all values of all variables chosen."""
    end = int(time.time())
    query = re.sub(r"\$\w+", ".*", expr.replace("$__rate_interval", "1m"))
    parameters = urllib.parse.urlencode({"query": query, "start": end - SECONDS, "end": end, "step": STEP})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{parameters}", timeout=30) as answer:  # noqa: S310 - the caller's own Prometheus
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def points(series: dict[str, Any]) -> list[tuple[float, float]]:
    """Return time (0 to 1) and value of a series, without what is no number."""
    first = time.time() - SECONDS
    pairs = ((max(0.0, (at - first) / SECONDS), float(value)) for at, value in series["values"])
    return [(at, value) for at, value in pairs if value == value]  # noqa: PLR0124 - NaN differs from itself


def text(x: float, y: float, words: str, size: int = 11, colour: str = "#ccccdc") -> str:
    """Return a line of text."""
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}">{escape(words)}</text>'


def name(legend: str, series: dict[str, Any]) -> str:
    """Return the legend of a series; a row of a table is its labels."""
    if "{{" not in legend and "alertname" in series["metric"]:
        return "  ".join(value for key, value in series["metric"].items() if key != "__name__")
    return re.sub(r"{{(\w+)}}", lambda found: series["metric"].get(found[1], ""), legend)


def draw(panel: dict[str, Any], prometheus: str) -> str:
    """Return a panel as SVG."""
    place = panel["gridPos"]
    x, y, w, h = place["x"] * WIDTH, place["y"] * HEIGHT, place["w"] * WIDTH - 6, place["h"] * HEIGHT - 6
    if panel["type"] == "row":
        return text(x + 4, y + 20, panel["title"], 14)
    found = [
        (name(target["legendFormat"], series), points(series))
        for target in panel["targets"]
        for series in ask(prometheus, target["expr"])
    ]
    if panel["type"] == "table":  # of now: only series that still have a value
        found = [(legend, line) for legend, line in found if line and line[-1][0] > 1 - 2 * STEP / SECONDS]
    found = [(legend, line) for legend, line in found if line][:12]
    fill = "#181b1f"
    if panel["type"] == "stat" and found:
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        value = found[0][1][-1][1]
        colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
        fill = {"green": "#37872d", "orange": "#fa6400", "red": "#c4162a"}[colour]
    parts = [
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="{fill}"/>',
        text(x + 8, y + 16, panel["title"]),
    ]
    top = max([value for _, line in found for _, value in line], default=0) or 1
    for number, (legend, line) in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        if panel["type"] == "stat":
            parts.append(text(x + 8, y + h - 14, f"{line[-1][1]:.3g}", 30, "#fff"))
            break
        if panel["type"] == "timeseries":
            spots = " ".join(
                f"{x + 8 + at * (w - 16):.0f},{y + h - 34 - value / top * (h - 66):.0f}" for at, value in line
            )
            parts.append(f'<polyline points="{spots}" fill="none" stroke="{colour}"/>')
            parts.append(text(x + 8 + number % 4 * w / 4, y + h - 18 + number // 4 * 11, legend[: w // 28], 9, colour))
        elif panel["type"] == "state-timeline":
            tall = (h - 30) / len(found)
            shades = [option["color"] for option in panel["fieldConfig"]["defaults"]["mappings"][0]["options"].values()]
            for at, value in line:
                shade = {"red": "#c4162a", "green": "#37872d", "blue": "#1f60c4"}[shades[int(value > 0)]]
                parts.append(
                    f'<rect x="{x + 90 + at * (w - 104):.0f}" y="{y + 24 + number * tall:.0f}" '
                    f'width="{(w - 104) * STEP / SECONDS + 1:.0f}" height="{tall - 2:.0f}" fill="{shade}"/>'
                )
            parts.append(text(x + 8, y + 24 + (number + 0.6) * tall, legend[:14], 9))
        else:
            parts.append(text(x + 8, y + 36 + number * 13, legend, 10))
    if panel["type"] == "timeseries":
        parts.append(text(x + w - 60, y + 16, f"to {top:.3g}", 9, "#8e8e9a"))
    return "".join(parts)


def main(prometheus: str, folder: str) -> None:
    """Draw every dashboard into ``folder``."""
    for path in sorted(Path(__file__).parent.glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        tall = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * HEIGHT
        panels = "\n".join(draw(panel, prometheus) for panel in dashboard["panels"])
        size = f'width="{24 * WIDTH}" height="{tall}" viewBox="0 0 {24 * WIDTH} {tall}"'
        back = f'<rect width="{24 * WIDTH}" height="{tall}" fill="#111217"/>'
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">{back}\n{panels}\n</svg>\n'
        Path(folder, f"dashboard-{path.stem}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

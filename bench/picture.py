"""The ratios of a run as one picture: for each case the range, the median and the goal, on a logarithmic axis."""

from __future__ import annotations

from html import escape
from math import log10
from typing import Any

_WIDTH, _LEFT, _ROW = 1000, 330, 26  # SVG units
_LOW, _HIGH = 0.1, 30.0  # the ends of the axis
_COLOURS = {"reached": "#1a7f4b", "short": "#b3261e"}


def svg(cases: list[dict[str, Any]]) -> str:
    """Return the picture.

    Args:
        cases: as :meth:`bench.report.Case.figures` returns them.
    """
    height = (len(cases) + 2) * _ROW
    grid = "".join(
        f'<path d="M{_x(at):.1f} {_ROW}V{height - _ROW}" stroke="#d8dde4" stroke-width="{3 if at == 1 else 1}"/>'
        f'<text x="{_x(at):.1f}" y="{height - 8}" text-anchor="middle">{at:g}</text>'
        for at in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    )
    rows = "".join(_row(case, (index + 1.5) * _ROW) for index, case in enumerate(cases))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="system-ui,sans-serif" '
        f'font-size="12" fill="#1c2430"><rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="8" y="17">ratio: dot = median, bar = range, short line = goal</text>{grid}{rows}</svg>\n'
    )


def _row(case: dict[str, Any], y: float) -> str:
    ratio = case[case["by"]]
    colour = _COLOURS.get(case["verdict"], "#5b6676")
    goal = ""
    if case["goal"] is not None:
        goal = f'<path d="M{_x(case["goal"]):.1f} {y - 10}v20" stroke="#1c2430" stroke-width="2"/>'
    words = f"{case['name']} ({'core-second' if case['by'] == 'core' else 'clock'}): {case['verdict']}"
    return (
        f'<text x="8" y="{y + 4}">{escape(words)}</text>'
        f'<path d="M{_x(ratio["lowest"]):.1f} {y}H{_x(ratio["highest"]):.1f}" stroke="{colour}" stroke-width="5"/>'
        f'<circle cx="{_x(ratio["median"]):.1f}" cy="{y}" r="6" fill="{colour}">'
        f"<title>{escape(case['above'])} / {escape(case['below'])}: {ratio['median']:.2f}</title></circle>{goal}"
    )


def _x(ratio: float) -> float:
    share = (log10(min(_HIGH, max(_LOW, ratio))) - log10(_LOW)) / (log10(_HIGH) - log10(_LOW))
    return _LEFT + share * (_WIDTH - _LEFT - 20)

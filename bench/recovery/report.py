"""The times as a table and as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import log10
from statistics import median
from typing import Any

from bench.recovery.faults import FAULTS
from bench.recovery.notes import MEASURES, Counts
from bench.recovery.systems import SYSTEMS

ENOUGH = 5  # repetitions; fewer are no measurement
_WIDTH, _LEFT, _RIGHT, _ROW = 1000, 400, 170, 24  # SVG units
_LOW, _HIGH = 0.01, 100.0  # seconds, the ends of the axis
_OURS, _OTHERS = "#1a7f4b", "#5b6676"


@dataclass(frozen=True)
class Spread:
    """One measure over all repetitions.

    Attributes:
        times: in seconds, ascending, of the repetitions that reached it.
        never: repetitions that did not.
        watched: seconds in which it would have been seen, in each of them.
    """

    times: list[float]
    never: int
    watched: float

    def __str__(self) -> str:
        never = f"not within {self.watched:.0f} s: {self.never} of {len(self.times) + self.never}"
        if not self.times:
            return never
        words = f"{_seconds(median(self.times))} ({_seconds(self.times[0])} to {_seconds(self.times[-1])})"
        return f"{words}; {never}" if self.never else words


def figures(
    fault: str,
    system: str,
    times: list[dict[str, float | None]],
    watched: list[dict[str, float]],
    counts: list[Counts],
) -> dict[str, Any]:
    """Return everything about one system under one fault, ready for JSON.

    Args:
        fault: one of :data:`bench.recovery.faults.FAULTS`.
        system: one of :data:`bench.recovery.systems.SYSTEMS`.
        times: of each repetition, see :func:`bench.recovery.notes.times`.
        watched: of each repetition, see :func:`bench.recovery.notes.watched`.
        counts: of each start of the system.
    """
    return {
        "fault": fault,
        "system": system,
        "repetitions": len(times),
        "seconds": {name: [one[name] for one in times] for name in FAULTS[fault].measures},
        "watched": {name: min(one[name] for one in watched) for name in FAULTS[fault].measures},
        "acknowledged": sum(one.acknowledged for one in counts),
        "lost": sum(one.lost for one in counts),
        "twice": sum(one.twice for one in counts),
    }


def spread(row: dict[str, Any], measure: str) -> Spread:
    """Return one measure of what :func:`figures` returns.

    Args:
        row: what it returned.
        measure: one of the fault's.
    """
    times = row["seconds"][measure]
    return Spread(sorted(time for time in times if time is not None), times.count(None), row["watched"][measure])


def joined(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of an earlier run with those of this one in their place, in the order of the table.

    Args:
        old: as :func:`figures` returns them.
        new: the same.
    """
    rows = {(row["fault"], row["system"]): row for row in (*old, *new)}
    return [rows[fault, system] for fault in FAULTS for system in SYSTEMS if (fault, system) in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table; times are the median and the range.

    Args:
        rows: as :func:`figures` returns them.
    """
    lines = [
        "| killed | system | until | seconds | lost of acknowledged | started twice |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for number, measure in enumerate(row["seconds"]):
            counts = f"{row['lost']:,} of {row['acknowledged']:,} | {row['twice']:,}" if not number else " | "
            lines.append(
                f"| {FAULTS[row['fault']].kills} | {SYSTEMS[row['system']].name} | {_words(row, measure)} "
                f"| {spread(row, measure)} | {counts} |"
            )
    return "\n".join(lines)


def svg(rows: list[dict[str, Any]]) -> str:
    """Return the picture: for each measure and system the range and the median, on a logarithmic axis.

    Args:
        rows: as :func:`figures` returns them.
    """
    drawn, y = [], _ROW * 1.5
    for fault, kind in FAULTS.items():
        for measure in kind.measures:
            mine = [row for row in rows if row["fault"] == fault]
            if not mine:
                continue
            drawn.append(
                f'<text x="8" y="{y + 4}" font-weight="600">{escape(f"{kind.kills}: {MEASURES[measure]}")}</text>'
            )
            for row in mine:
                y += _ROW
                drawn.append(_row(row, measure, y))
            y += _ROW * 1.5
    height = y
    grid = "".join(
        f'<path d="M{_x(at):.1f} {_ROW}V{height - _ROW}" stroke="#d8dde4"/>'
        f'<text x="{_x(at):.1f}" y="{height - 8}" text-anchor="middle">{at:g} s</text>'
        for at in (0.01, 0.1, 1, 10, 100)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" font-family="system-ui,sans-serif" '
        f'font-size="12" fill="#1c2430"><rect width="{_WIDTH}" height="{height:g}" fill="#fff"/>'
        f'<text x="{_LEFT}" y="17">seconds: dot = median, bar = range</text>{grid}{"".join(drawn)}</svg>\n'
    )


def _row(row: dict[str, Any], measure: str, y: float) -> str:
    system, found = SYSTEMS[row["system"]], spread(row, measure)
    colour = _OURS if system.key == "holdfast" else _OTHERS
    words = f'<text x="24" y="{y + 4}">{escape(system.name)}</text>'
    if found.times:
        words += (
            f'<path d="M{_x(found.times[0]):.1f} {y}H{_x(found.times[-1]):.1f}" stroke="{colour}" stroke-width="5"/>'
            f'<circle cx="{_x(median(found.times)):.1f}" cy="{y}" r="6" fill="{colour}">'
            f"<title>{escape(f'{system.name}: {found}')}</title></circle>"
        )
    if found.never:
        count = f"not within {found.watched:.0f} s: {found.never} of {row['repetitions']}"
        words += f'<text x="{_WIDTH - 8}" y="{y + 4}" text-anchor="end" fill="#b3261e">{count}</text>'
    return words


def _words(row: dict[str, Any], measure: str) -> str:
    if measure == "accepted" and not SYSTEMS[row["system"]].confirms:
        return "the next publish returns, unconfirmed"
    return MEASURES[measure]


def _seconds(time: float) -> str:
    return f"{time:.0f}" if time >= 20 else f"{time:.1f}" if time >= 1 else f"{time:.2f}"


def _x(time: float) -> float:
    share = (log10(min(_HIGH, max(_LOW, time))) - log10(_LOW)) / (log10(_HIGH) - log10(_LOW))
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

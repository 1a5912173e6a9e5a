"""The page: plain HTML with pictures in SVG, readable without a network and on a phone."""

from __future__ import annotations

from bisect import bisect_left
from html import escape
from typing import TYPE_CHECKING, Any

from drill.judge import gaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drill.judge.history import History

WIDTH, HEIGHT, LEFT = 1000, 130, 46  # of one strip of the timeline, in SVG units
WORDS = {
    "attempted": "publish was called",
    "acknowledged": "the broker confirmed it, or the outbox stored it",
    "unknown": "publish raised, or its process died: it may run all the same",
    "executed": "ran to its end",
    "recovered": "ran although never acknowledged",
    "duplicated": "ran to its end more than once",
    "extra": "executions beyond the first, cut ones included",
    "lost": "acknowledged, never ran to its end, in no queue",
    "unexpected": "ran though nobody attempted it",
    "result_lost": "ran, and no result can be read",
    "effect_duplicated": "changed the database twice",
    "effect_lost": "ran, and the database shows nothing",
    "dead_lettered": "in the dead-letter queue",
    "innocent_dead": "there without being poison",
    "poison_escaped": "poison that did not end there",
    "unrouted": "kept in the queue for messages without a way",
    "false_ack": "confirmed while no majority could have",
}
MUST_BE_ZERO = (
    "lost",
    "unexpected",
    "result_lost",
    "effect_duplicated",
    "effect_lost",
    "innocent_dead",
    "poison_escaped",
    "false_ack",
)
SAYS = {"pass": "Nothing was lost.", "fail": "The promise was broken.", "inconclusive": "This run proves nothing."}
STYLE = """
:root{--ink:#1c2430;--soft:#5b6676;--line:#d8dde4;--back:#fff;--card:#f5f7f9;--good:#1a7f4b;--bad:#b3261e;--warn:#8a5a00;
--one:#2463b4;--two:#1a7f4b;--three:#8a3fa0;--shade:#e8a33d}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b6;--line:#343d49;--back:#12171d;--card:#1b222b;
--good:#58c78c;--bad:#ff8a80;--warn:#f0b954;--one:#7db1f2;--two:#58c78c;--three:#cf9be0;--shade:#a06a14}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1320px;margin:auto;padding:1.2rem}h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .6rem}
.verdict{border-left:6px solid;padding:.6rem 1rem;background:var(--card);margin:1rem 0}.verdict p{margin:.2rem 0}
.pass{border-color:var(--good)}.fail{border-color:var(--bad)}.inconclusive{border-color:var(--warn)}
.word{font-size:1.3rem;font-weight:700}.pass .word,.ok{color:var(--good)}.fail .word,.no{color:var(--bad)}
.no{font-weight:700}
.inconclusive .word,.slow{color:var(--warn)}.soft{color:var(--soft)}
.counts{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:.5rem}
.counts div{background:var(--card);padding:.5rem .7rem;font-weight:600}
.counts b{font-size:1.25rem;display:block;font-variant-numeric:tabular-nums}
.counts span{font-size:.82rem;color:var(--soft);display:block;font-weight:400;line-height:1.3}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{padding:.35rem .6rem;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line);min-width:5.5rem}th{font-weight:600;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
svg{width:100%;min-width:640px;height:auto;display:block}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.axis{stroke:var(--line)}.shade{fill:var(--shade);opacity:.28}.shade:hover{opacity:.5}.curve{fill:none;stroke-width:1.4}
.mark{fill:var(--ink);font-weight:600}
"""


def render(content: dict[str, Any], history: History) -> str:
    """Return the page.

    Args:
        content: the summary that is also written as JSON.
        history: for the timeline.
    """
    word = content["verdict"]
    parts = [
        f"<h1>Fault drill {escape(content['run'])}</h1>",
        f'<p class="soft">{escape(_subtitle(content))}</p>',
        f'<div class="verdict {word}"><p class="word">{word.capitalize()}. {SAYS[word]}</p>',
        *(f"<p>{escape(reason)}</p>" for reason in content["reasons"]),
        f"<p>{escape(_bounds(content['loss_bound']))}</p></div>",
        "<h2>Tasks</h2>",
        _counts(content["counts"]),
        '<h2>Timeline</h2><p class="soft">Shaded: from the start of a fault to its healing.</p>',
        f'<div class="scroll">{_timeline(history)}</div>',
        "<h2>Faults</h2>",
        f'<div class="scroll">{_faults(content["faults"])}</div>',
        *_slow(content["slow"]),
        "<h2>Setting</h2>",
        f'<div class="scroll">{_setting(content)}</div>',
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Drill {escape(content['run'])}: {word}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _subtitle(content: dict[str, Any]) -> str:
    options = content.get("options", {})
    return f"{content.get('target', '')}, seed {options.get('seed', '?')}, {options.get('rate', '?')} tasks a second"


def _bounds(bounds: dict[str, float | None]) -> str:
    if bounds["per_task"] is None:
        return "No statistical bound: it holds for a run that passed."
    per_fault = bounds["per_fault"]  # says something from a dozen faults on
    faults = f", and fewer than {per_fault:.2g} of all faults lose one" if per_fault and per_fault < 0.3 else ""
    return f"With 95% confidence fewer than {bounds['per_task']:.2g} of all tasks are lost{faults} (3/N)."


def _counts(counts: dict[str, int]) -> str:
    cells = []
    for name, meaning in sorted(WORDS.items(), key=lambda entry: entry[0] not in MUST_BE_ZERO):
        mark = ("ok" if counts[name] == 0 else "no") if name in MUST_BE_ZERO else ""
        title = name.replace("_", " ")
        cells.append(f'<div><b class="{mark}">{counts[name]:,}</b>{title}<span>{escape(meaning)}</span></div>')
    return f'<div class="counts">{"".join(cells)}</div>'


def _timeline(history: History) -> str:
    flows = gaps.streams(history).times
    times = [*(a.at for a in history.attempts.values()), *flows["work"], *(s["at"] for s in history.samples)]
    if not times:
        return "<p>Nothing happened.</p>"
    start, end = min(times), max(times) + 1
    rates = {name: _per_second(flow, start, end) for name, flow in flows.items()}
    depth = [(s["at"], float(s["ready"] + s["unacked"] + s["delayed"])) for s in history.samples]
    strips = [
        ("acknowledged a second", rates["publish"], "one"),
        ("finished a second", rates["work"], "two"),
        ("waiting in queues", depth, "three"),
    ]
    drawn = [
        _strip(title, [(_x(at, start, end), value) for at, value in points], colour, top * (HEIGHT + 24) + 16)
        for top, (title, points, colour) in enumerate(strips)
    ]
    total = len(strips) * (HEIGHT + 24) + 16
    shades = [
        f'<rect class="shade" x="{_x(f.apply_at, start, end):.1f}" y="14" height="{total - 32}" '
        f'width="{max(2.0, _x(f.healed_at, start, end) - _x(f.apply_at, start, end)):.1f}">'
        f"<title>{escape(f.key)}: {escape(', '.join(f.targets))}</title></rect>"
        for f in history.faults
        if f.healed_at
    ]
    marks = _marks([(_x(f.apply_at, start, end) + 2, f.key.partition("-")[0]) for f in history.faults if f.healed_at])
    seconds = "".join(
        f'<text x="{_x(start + at, start, end):.0f}" y="{total - 2}">{at:.0f} s</text>' for at in _ticks(end - start)
    )
    return f'<svg viewBox="0 0 {WIDTH} {total}" role="img">{"".join(shades)}{marks}{"".join(drawn)}{seconds}</svg>'


def _marks(places: Sequence[tuple[float, str]]) -> str:
    """Return the numbers of the faults, without those that would lie on the one before."""
    drawn, free = [], 0.0
    for x, number in places:
        if x >= free:
            drawn.append(f'<text class="mark" x="{x:.1f}" y="11">{escape(number)}</text>')
            free = x + 8 * len(number) + 4
    return "".join(drawn)


def _strip(title: str, points: Sequence[tuple[float, float]], colour: str, top: float) -> str:
    """Return one curve with its axis.

    Args:
        title: of the strip.
        points: place from the left, and value.
        colour: name of the style.
        top: distance from the top of the picture.
    """
    highest = max((value for _, value in points), default=0) or 1
    bottom = top + HEIGHT
    path = " ".join(f"{x:.1f},{bottom - value / highest * (HEIGHT - 14):.1f}" for x, value in points)
    return (
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="0" y="{top + 18}">{highest:.3g}</text><text x="0" y="{bottom}">0</text>'
        f'<text x="{LEFT + 4}" y="{top + 8}">{title}</text>'
        f'<polyline class="curve" stroke="var(--{colour})" points="{path}"/>'
    )


def _x(at: float, start: float, end: float) -> float:
    return LEFT + (at - start) / (end - start) * (WIDTH - LEFT)


def _ticks(length: float) -> list[float]:
    step = next(step for step in (5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 86400) if length / step <= 10)
    return [number * step for number in range(int(length // step) + 1)]


def _per_second(times: Sequence[float], start: float, end: float) -> list[tuple[float, float]]:
    """Count events in up to 500 slices of at least one second."""
    width = max(1.0, (end - start) / 500)
    edges = [start + number * width for number in range(int((end - start) / width) + 1)]
    places = [bisect_left(times, edge) for edge in edges]
    return [
        (edge, (after - before) / width)
        for edge, before, after in zip(edges, places, [*places[1:], len(times)], strict=True)
    ]


def _faults(faults: list[dict[str, Any]]) -> str:
    head = "fault,target,proof,tasks,recovered,extra / exposed,lost,longest silence (bound),alert (allowed)"
    rows = []
    for fault in faults:
        bad = sum(number for name, number in fault["bad"].items() if name != "recovered")
        problem = f'<br><span class="no">{escape(fault["problem"])}</span>' if fault["problem"] else ""
        proof = escape(fault["proof"]) or '<span class="no">not proven</span>'
        cells = [
            f"<td>{escape(fault['key'].replace('-', ' ', 1))}</td><td>{escape(', '.join(fault['targets']))}</td>",
            f'<td>{proof}{problem}</td><td class="n">{fault["tasks"]}</td>',
            f'<td class="n">{fault["bad"]["recovered"]}</td>',
            f'<td class="n">{fault["extra"]} / {fault["exposed"]}</td>',
            f'<td class="n {"no" if bad else "ok"}">{bad}</td><td>{_gaps(fault["timings"])}</td>',
            f"<td>{_alert(fault['alert'])}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    names = "".join(f"<th>{name}</th>" for name in head.split(","))
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _gaps(timings: list[dict[str, Any]]) -> str:
    lines = []
    for t in timings:
        mark, since = "slow" if t["ratio"] > 1 else "ok", " from healing on" if t["since"] == "heal" else ""
        text = f"{t['stream']} {t['gap']:.1f} s ({t['seconds']:.1f} s{since})"
        lines.append(f'<span class="{mark}" title="{escape(t["formula"])}">{text}</span>')
    return "<br>".join(lines)


def _alert(alert: dict[str, Any] | None) -> str:
    """Return which alert had to come, when it came, and when it went; nothing for a fault that calls nobody."""
    if alert is None:
        return ""
    came = "not raised" if alert["after"] is None else f"after {alert['after']:.0f} s ({alert['allowed']:.0f} s)"
    gone = "goes on" if alert["resolved"] is None else f"gone {alert['resolved']:.0f} s after healing"
    text = came if alert["after"] is None else f"{came}, {gone}"
    return f'{escape(alert["alert"])}<br><span class="{"ok" if alert["good"] else "no"}">{text}</span>'


def _slow(lines: list[str]) -> list[str]:
    if not lines:
        return []
    return ["<h2>Slower than their bound</h2><ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"]


def _setting(content: dict[str, Any]) -> str:
    rows = []
    for group in ("versions", "settings", "options"):
        for name, value in content.get(group, {}).items():
            rows.append(f"<tr><td>{group}</td><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>")
    return f"<table><tbody>{''.join(rows)}</tbody></table>"

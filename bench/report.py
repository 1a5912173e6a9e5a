"""Ratios of pairs that were measured one after the other, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

ENOUGH = 5  # pairs; fewer are no measurement
NOISY, FEW = "too noisy", "too few pairs"  # verdicts of what cannot be judged
_CROWDED = 0.5  # processors that others may use before the rates by the clock say nothing
_WIDE = 1.2  # highest by lowest ratio, without the two outermost, up to which the median decides by itself


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Attributes:
        wall: messages per second.
        core: messages per second of processor time of everything that took part.
        others: processors that something else used meanwhile.
    """

    wall: float
    core: float
    others: float = 0.0


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: what the ratio is called.
        above: the side in the numerator.
        below: the side in the denominator.
        goal: the ratio that is aimed at, or None for a figure that is only reported.
        by: what the goal is about, an attribute of :class:`Sample`: ``core`` or ``wall``.
        pairs: both sides, measured one after the other.
    """

    name: str
    above: str
    below: str
    goal: float | None
    by: str = "core"
    pairs: list[tuple[Sample, Sample]] = field(default_factory=list)

    def ratios(self, by: str) -> list[float]:
        """Return numerator by denominator, pair by pair, in ascending order."""
        return sorted(getattr(above, by) / getattr(below, by) for above, below in self.pairs)

    @property
    def others(self) -> float:
        """How many processors something else used, in the median."""
        return median(sample.others for pair in self.pairs for sample in pair)

    @property
    def verdict(self) -> str:
        """Whether the median reaches the goal, or what keeps it from being judged."""
        if len(self.pairs) < ENOUGH:
            return FEW
        if self.goal is None:
            return "reported"
        if self.by == "wall" and self.others > _CROWDED:
            return NOISY
        _, *inner, _ = self.ratios(self.by)
        if inner[0] < self.goal <= inner[-1] and inner[-1] / inner[0] > _WIDE:
            return NOISY
        return "reached" if median(inner) >= self.goal else "short"

    def figures(self) -> dict[str, Any]:
        """Return everything about the case, ready for JSON."""
        found: dict[str, Any] = asdict(self) | {"others": self.others, "verdict": self.verdict}
        for by in ("core", "wall"):
            ratios = self.ratios(by)
            sides = [median(getattr(sample, by) for sample in side) for side in zip(*self.pairs, strict=True)]
            found[by] = {"median": median(ratios), "lowest": ratios[0], "highest": ratios[-1], "sides": sides}
        return found


def table(cases: list[dict[str, Any]]) -> str:
    """Return comparisons as a Markdown table.

    Args:
        cases: as :meth:`Case.figures` returns them.
    """
    heads = (
        "case",
        "numerator / denominator",
        "per core-second",
        "range",
        "μs of processor time",
        "by the clock",
        "range",
        "messages/s",
        "goal",
        "verdict",
    )
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in cases:
        core, wall = case["core"], case["wall"]
        goal = "" if case["goal"] is None else f"{case['goal']:g} ({'core' if case['by'] == 'core' else 'clock'})"
        rows.append(
            f"| `{case['name']}` | {case['above']} / {case['below']} "
            f"| {core['median']:.2f} | {core['lowest']:.2f} to {core['highest']:.2f} "
            f"| {1e6 / core['sides'][0]:,.0f} / {1e6 / core['sides'][1]:,.0f} "
            f"| {wall['median']:.2f} | {wall['lowest']:.2f} to {wall['highest']:.2f} "
            f"| {wall['sides'][0]:,.0f} / {wall['sides'][1]:,.0f} | {goal} | {case['verdict']} |"
        )
    return "\n".join(rows)


def unjudged(cases: list[dict[str, Any]], command: str) -> str:
    """Return which cases this run could not judge and how to judge them, or an empty string.

    Args:
        cases: as :meth:`Case.figures` returns them.
        command: measures them again; ``{}`` stands for their names.
    """
    reasons = {
        NOISY: "The machine was too noisy to judge",
        FEW: "There was no time for enough pairs of",
    }
    lines = []
    for verdict, words in reasons.items():
        names = [case["name"] for case in cases if case["verdict"] == verdict]
        if names:
            listed = ", ".join(f"`{name}`" for name in names)
            lines.append(f"{words}: {listed}. On a quiet machine: {command.format(' '.join(names))}")
    return "\n".join(lines)


def changes(now: list[dict[str, Any]], then: list[dict[str, Any]]) -> str:
    """Return what differs from a saved run: a ratio has changed when the two ranges do not touch.

    Args:
        now: cases of this run, as :meth:`Case.figures` returns them.
        then: those of the saved one.
    """
    rows = ["| case | then | now | |", "|---|---|---|---|"]
    saved = {case["name"]: case for case in then}
    for case in now:
        if case["name"] not in saved:
            continue
        new, old = case[case["by"]], saved[case["name"]][case["by"]]
        better, worse = new["lowest"] > old["highest"], new["highest"] < old["lowest"]
        word = "better" if better else "worse" if worse else "no change that this run could show"
        rows.append(f"| `{case['name']}` | {old['median']:.2f} | {new['median']:.2f} | {word} |")
    return "\n".join(rows)

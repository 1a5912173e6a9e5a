"""Ratios of pairs that were measured one after the other, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: what the ratio is called.
        above: the client in the numerator.
        below: the client in the denominator.
        goal: the ratio that is aimed at, or None for a figure that is only reported.
        pairs: rates of both, measured side by side, in units per second.
    """

    name: str
    above: str
    below: str
    goal: float | None
    pairs: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Numerator by denominator, pair by pair."""
        return [above / below for above, below in self.pairs]

    @property
    def verdict(self) -> str:
        """Whether the median reaches the goal."""
        if self.goal is None:
            return "reported"
        return "reached" if median(self.ratios) >= self.goal else "short"

    def figures(self) -> dict[str, Any]:
        """Return everything about the case, ready for JSON."""
        ratios = self.ratios
        return asdict(self) | {
            "median": median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "median_rates": [median(rates) for rates in zip(*self.pairs, strict=True)],
            "verdict": self.verdict,
        }


def table(cases: list[Case]) -> str:
    """Return the comparisons as a Markdown table."""
    rows = [
        "| ratio | median | range | goal | numerator /s | denominator /s | |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        f = case.figures()
        goal = "" if case.goal is None else f"{case.goal:g}"
        above, below = f["median_rates"]
        rows.append(
            f"| {case.name}: {case.above} / {case.below} | {f['median']:.2f} | {f['lowest']:.2f} to {f['highest']:.2f} "
            f"| {goal} | {above:,.0f} | {below:,.0f} | {case.verdict} |"
        )
    return "\n".join(rows)

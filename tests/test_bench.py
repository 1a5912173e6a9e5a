"""The benchmark's arithmetic: pairs, ratios, verdicts."""

from __future__ import annotations

import pytest

from bench.__main__ import CASES, compare
from bench.clients import CLIENTS
from bench.report import Case, table


def test_pairs_are_measured_in_the_order_abba() -> None:
    order: list[str] = []

    def client(name: str, rate: float) -> float:
        order.append(name)
        return rate

    pairs = list(compare(lambda: client("a", 2.0), lambda: client("b", 1.0), 4))
    assert "".join(order) == "abbaabba"
    assert pairs == [(2.0, 1.0)] * 4


@pytest.mark.parametrize(("goal", "verdict"), [(1.5, "reached"), (2.5, "short"), (None, "reported")])
def test_the_median_decides(goal: float | None, verdict: str) -> None:
    case = Case("name", "a", "b", goal, [(2.0, 1.0), (100.0, 1.0), (1.0, 1.0)])
    figures = case.figures()
    assert (figures["median"], figures["lowest"], figures["highest"]) == (2.0, 1.0, 100.0)
    assert figures["verdict"] == verdict


def test_the_table_has_a_row_for_each_case() -> None:
    rows = table([Case("name", "a", "b", 0.8, [(900.0, 1000.0)])]).splitlines()
    assert rows[-1] == "| name: a / b | 0.90 | 0.90 to 0.90 | 0.8 | 900 | 1,000 | reached |"


def test_every_case_names_clients_that_exist() -> None:
    assert {name for above, below, *_ in CASES.values() for name in (above, below)} <= CLIENTS.keys()

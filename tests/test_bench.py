"""The benchmark's arithmetic: pairs, ratios, verdicts, its picture."""

from __future__ import annotations

from time import monotonic
from xml.etree import ElementTree as ET

import pytest

from bench.__main__ import compare
from bench.cases import CASES
from bench.clients import CLIENTS, _from_threads
from bench.picture import svg
from bench.report import Case, Sample, changes, table, unjudged
from bench.worker import COMMANDS

LATER = monotonic() + 3600


def case(*ratios: float, goal: float | None = 1.0, by: str = "core", others: float = 0.0) -> Case:
    pairs = [(Sample(1000 * ratio, 100 * ratio, others), Sample(1000.0, 100.0, others)) for ratio in ratios]
    return Case("name", "a", "b", goal, by, pairs)


def test_pairs_are_measured_in_the_order_abba() -> None:
    order: list[str] = []

    def side(name: str) -> Sample:
        order.append(name)
        return Sample(ord(name), 1.0)

    pairs = list(compare(lambda: side("a"), lambda: side("b"), 4, LATER))
    assert "".join(order) == "abbaabba"
    assert {(above.wall, below.wall) for above, below in pairs} == {(97, 98)}


def test_no_pair_begins_when_the_time_is_over_except_the_first() -> None:
    assert len(list(compare(lambda: Sample(1, 1), lambda: Sample(1, 1), 9, monotonic() - 1))) == 1


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ((1.1, 1.2, 1.3, 1.4, 1.5), "reached"),
        ((0.5, 0.6, 0.7, 0.8, 9.0), "short"),  # one outlier decides nothing
        ((0.98, 0.99, 1.01, 1.02, 1.03), "reached"),  # narrow: the median decides
        ((0.5, 0.7, 1.1, 1.4, 1.5), "too noisy"),  # wide, with the goal inside
        ((1.1, 1.2, 1.3, 1.4), "too few pairs"),
    ],
)
def test_the_verdict_says_what_the_pairs_can_bear(ratios: tuple[float, ...], verdict: str) -> None:
    assert case(*ratios).verdict == verdict


def test_work_of_others_makes_the_clock_useless_and_processor_time_not() -> None:
    ratios = (1.1, 1.2, 1.3, 1.4, 1.5)
    assert case(*ratios, by="wall", others=1.5).verdict == "too noisy"
    assert case(*ratios, by="wall", others=0.1).verdict == "reached"
    assert case(*ratios, by="core", others=1.5).verdict == "reached"


def test_a_case_without_a_goal_is_reported() -> None:
    assert case(1, 1, 1, 1, 1, goal=None).verdict == "reported"


def test_the_run_says_what_it_could_not_judge_and_how_to_judge_it() -> None:
    quiet, noisy = case(1.1, 1.2, 1.3, 1.4, 1.5), case(1.1, 1.2, 1.3, 1.4, 1.5, by="wall", others=1.5)
    assert unjudged([quiet.figures()]) == ""
    assert unjudged([quiet.figures(), noisy.figures(), case(1.1).figures()]).splitlines() == [
        'The machine was too noisy to judge: `name`. On a quiet machine: make bench CASES="name"',
        'There was no time for enough pairs of: `name`. On a quiet machine: make bench CASES="name"',
    ]


def test_the_table_has_a_row_for_each_case() -> None:
    row = table([case(0.9, 0.9, 0.9, 0.9, 0.9).figures()]).splitlines()[-1]
    assert row.startswith("| `name` | a / b | 0.90 | 0.90 to 0.90 | 11,111 / 10,000 | 0.90 |")
    assert row.endswith("| 900 / 1,000 | 1 (core) | short |")


def test_a_run_is_compared_with_a_saved_one_and_ranges_that_touch_are_no_change() -> None:
    then = [case(0.9, 1.0, 1.1).figures()]
    words = [
        changes([case(*ratios).figures()], then).splitlines()[-1].split("|")[-2].strip()
        for ratios in ((1.2, 1.3, 1.4), (0.6, 0.7, 0.8), (0.7, 0.8, 0.95))
    ]
    assert words == ["better", "worse", "no change that this run could show"]


def test_the_picture_is_well_formed_and_names_every_case() -> None:
    text = svg([case(0.9, 1.0, 50.0).figures()])
    ET.fromstring(text)  # noqa: S314 - made a line above
    assert "name (core-second): too few pairs" in text


def test_every_case_names_clients_and_workers_that_exist() -> None:
    sides = [side for comparison in CASES.values() for side in (comparison.above, comparison.below)]
    assert {side.client for side in sides} <= CLIENTS.keys()
    assert {side.worker for side in sides if side.worker} <= COMMANDS.keys()


def test_many_callers_make_every_call_once() -> None:
    made: list[int] = []
    _from_threads(made.append, 100, 8)
    assert sorted(made) == list(range(100))


def test_a_call_that_fails_in_one_of_many_threads_ends_the_client() -> None:
    with pytest.raises(ZeroDivisionError):
        _from_threads(lambda n: 1 // (50 - n), 100, 8)

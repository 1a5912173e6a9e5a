"""The benchmark's arithmetic: pairs, curves, ratios, verdicts, its picture."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from bench import __main__, backlog, cluster, compiled, meter
from bench.__main__ import compare
from bench.backlog import beside, fill, flatness
from bench.cases import CASES
from bench.clients import CLIENTS, WINDOW, _from_threads
from bench.growth import CURVES, order, ratios
from bench.picture import svg
from bench.report import Case, Sample, changes, table, unjudged
from bench.worker import COMMANDS

if TYPE_CHECKING:
    from pathlib import Path

LATER = monotonic() + 3600
AGAIN = 'make bench CASES="{}"'


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
    assert unjudged([quiet.figures()], AGAIN) == ""
    assert unjudged([quiet.figures(), noisy.figures(), case(1.1).figures()], AGAIN).splitlines() == [
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


def test_points_of_a_curve_are_measured_up_and_down_in_turn() -> None:
    assert [list(order(turn, 3)) for turn in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_each_point_is_compared_with_the_first_one_of_its_round() -> None:
    samples = [[Sample(100.0, 10.0), Sample(200.0, 10.0)], [Sample(50.0, 10.0), Sample(150.0, 5.0)]]
    (found,) = ratios("publish", ["1 queue", "2 queues"], samples)
    assert found.name == "publish, 2 queues"
    assert (found.ratios("wall"), found.ratios("core")) == ([0.5, 0.75], [0.5, 1.0])


def test_a_figure_that_grows_with_the_backlog_is_not_flat() -> None:
    rows = flatness([beside("memory", 100, 110), beside("time", 2, 3)]).splitlines()[2:]
    assert rows == [
        "| memory | 100.0 | 110.0 | 1.10 | at most 1.25 | reached |",
        "| time | 2.0 | 3.0 | 1.50 | at most 1.25 | short |",
    ]


class Filling:
    """A client that publishes at once, beside brokers whose memory is what was published and not near its limit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = 0
        monkeypatch.setattr(meter, "brokers", lambda: {"rabbit1": self.there})
        monkeypatch.setattr(cluster, "pressed", lambda: False)

    def publish(self, count: int) -> None:
        self.there += count


def test_a_queue_is_filled_up_to_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Filling(monkeypatch)
    assert fill(client, 25_000, LATER) == (25_000, {"rabbit1": 25_000})


def test_a_queue_is_filled_no_further_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fill(Filling(monkeypatch), 25_000, monotonic() - 1) == (0, {"rabbit1": 0})


def test_filling_pauses_before_each_part_while_a_broker_is_near_its_memory_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Filling(monkeypatch)
    looks = iter([False, True, True])
    paused: list[int] = []
    monkeypatch.setattr(cluster, "pressed", lambda: next(looks))
    monkeypatch.setattr(backlog, "sleep", lambda _: paused.append(client.there))
    assert fill(client, 30_000, LATER)[0] == 30_000
    assert paused == [10_000, 20_000]


@pytest.mark.parametrize(("used", "near"), [(440, False), (460, True)])
def test_one_broker_near_its_limit_is_enough(monkeypatch: pytest.MonkeyPatch, used: int, near: bool) -> None:
    nodes = [{"mem_used": 100, "mem_limit": 600}, {"mem_used": used, "mem_limit": 600}]
    monkeypatch.setattr(cluster, "api", lambda *_: nodes)
    assert cluster.pressed() is near


def test_every_curve_names_clients_that_exist_and_can_share_the_window() -> None:
    points = [point for curve in CURVES.values() for point in curve.points]
    assert {point.side.client for point in points} <= CLIENTS.keys()
    counts = [int(point.side.environment.get("BENCH_CONNECTIONS", "1")) for point in points]
    assert [WINDOW % count for count in counts] == [0] * len(counts)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "found no compiler 'no-such-compiler'"), ("false", "cannot be compiled")],
)
def test_a_client_that_cannot_be_compiled_says_what_to_install(compiler: str, reason: str) -> None:
    assert compiled.make(compiler).startswith(reason)
    assert "librabbitmq-dev" in compiled.make(compiler)


def test_a_case_that_lacks_something_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, "compiled", replace(CASES["compiled"], lacks=lambda: "no compiler here"))
    monkeypatch.setattr(cluster, "versions", dict)
    monkeypatch.setattr(sys, "argv", ["bench", "compiled", "--json", str(tmp_path / "bench.json")])
    __main__.main()
    assert "`compiled` was left out: no compiler here" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text())["left_out"] == {"compiled": "no compiler here"}

"""The bookkeeping of confirms: whatever order the broker answers in, each message gets its own answer, once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.publisher.confirms import Confirms, OutOfOrderError


@st.composite
def conversations(draw: st.DrawFn) -> tuple[int, list[tuple[str, int, bool]]]:
    """A number of published messages and answers to all of them that a broker may give, in any order."""
    count = draw(st.integers(0, 30))
    waiting = list(range(1, count + 1))
    answers: list[tuple[str, int, bool]] = []
    while waiting:
        tag = draw(st.sampled_from(waiting))
        multiple = draw(st.booleans())
        covered = [t for t in waiting if t <= tag] if multiple else [tag]
        kind = draw(st.sampled_from(["ack", "nack", "return"]))
        if kind == "return":  # of one message, and before its own ack
            answers.append(("return", tag, False))
            kind, covered, multiple = "ack", [tag], False
        answers.append((kind, tag, multiple))
        waiting = [t for t in waiting if t not in covered]
    return count, answers


@given(conversations())
def test_each_message_gets_exactly_the_answer_that_names_it(case: tuple[int, list[tuple[str, int, bool]]]) -> None:
    count, answers = case
    confirms: Confirms[int] = Confirms()
    assert [confirms.publish(n, key=("x", n)) for n in range(1, count + 1)] == list(range(1, count + 1))
    expected: dict[int, tuple[str, bool]] = {}
    got: dict[int, tuple[str, bool]] = {}
    returned = set()
    for kind, tag, multiple in answers:
        if kind == "return":
            returned.add(tag)
            confirms.unroutable(("x", tag))
            continue
        for n in range(1, tag + 1) if multiple else [tag]:
            expected.setdefault(n, (kind, n in returned))
        for item, was_returned in confirms.settle(tag, multiple=multiple):
            assert item not in got, "settled twice"
            got[item] = (kind, was_returned)
    assert got == expected
    assert sorted(got) == list(range(1, count + 1))
    assert len(confirms) == 0


@given(conversations(), st.integers(0, 60))
def test_what_was_not_answered_is_given_back_in_order(case: tuple[int, list[tuple[str, int, bool]]], cut: int) -> None:
    count, answers = case
    confirms: Confirms[int] = Confirms()
    for n in range(1, count + 1):
        confirms.publish(n, key=n)
    settled = set()
    for kind, tag, multiple in answers[:cut]:
        if kind == "return":
            confirms.unroutable(tag)
        else:
            settled |= {item for item, _ in confirms.settle(tag, multiple=multiple)}
    assert confirms.abandon() == [n for n in range(1, count + 1) if n not in settled]
    assert len(confirms) == 0


def test_a_late_answer_is_not_taken_for_the_answer_to_the_next_message() -> None:
    confirms: Confirms[str] = Confirms()
    confirms.publish("first")
    confirms.publish("second")
    assert confirms.settle(1, multiple=False) == [("first", False)]
    assert len(confirms) == 1, "the second message still waits"


@pytest.mark.parametrize(("tag", "multiple"), [(3, False), (3, True), (1, False)])
def test_an_answer_for_nothing_that_waits_is_an_error(tag: int, multiple: bool) -> None:
    confirms: Confirms[str] = Confirms()
    confirms.publish("first")
    confirms.publish("second")
    confirms.settle(1, multiple=False)
    with pytest.raises(OutOfOrderError, match=f"tag {tag}"):
        confirms.settle(tag, multiple=multiple)


def test_tag_zero_with_multiple_means_all() -> None:
    confirms: Confirms[str] = Confirms()
    confirms.publish("first")
    confirms.publish("second")
    assert [item for item, _ in confirms.settle(0, multiple=True)] == ["first", "second"]


def test_twins_that_are_returned_are_told_apart_by_their_order() -> None:
    confirms: Confirms[str] = Confirms()
    for name in ("first", "second"):
        confirms.publish(name, key="same id")
    confirms.unroutable("same id")
    assert confirms.settle(2, multiple=True) == [("first", True), ("second", False)]


def test_a_return_of_nothing_that_waits_is_an_error() -> None:
    with pytest.raises(OutOfOrderError, match="return"):
        Confirms[str]().unroutable("unknown")

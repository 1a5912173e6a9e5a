"""One message alone and one in a bulk meet the same answers: they take the same way and end the same."""

from __future__ import annotations

from collections import Counter
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.publisher import Blocked, Disconnected, Message, Nacked, NotAcknowledged, Policy, Publisher, TimedOut
from holdfast.publisher.attempt import Attempts, Cluster
from holdfast.publisher.errors import Refused, Unreachable, Unroutable
from holdfast.publisher.link import Suspected
from holdfast.publisher.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.publisher.link import Pending
    from holdfast.publisher.message import Wire
    from holdfast.publisher.policy import Limits

NODES = 3
POLICY = Policy(deadline=5.0, attempt=1.0, backoff=1e-6, backoff_max=1e-6)
MESSAGE = Message("tasks", "q", b"[]", "application/json", "utf-8", {}, {"correlation_id": "t1"})
Answer = tuple[type[NotAcknowledged], bool] | None  # the kind and whether it may be there; None for an ack
ANSWERS: st.SearchStrategy[Answer] = st.one_of(
    st.none(),
    st.tuples(st.sampled_from([Nacked, Unreachable, Unroutable, Refused, Blocked]), st.just(False)),
    st.tuples(st.sampled_from([TimedOut, Disconnected, Unreachable, Blocked]), st.just(True)),
    st.just((Suspected, True)),
)


class Scripted:
    """Nodes whose answers are given; keeps what was asked of them."""

    def __init__(self, answers: Sequence[Answer], *, declares: bool = True, slow_from: int | None = None) -> None:
        self.answers = iter(answers)
        self.asked: list[tuple[int, bool]] = []  # node, alone
        self.first = 0
        self.declares = declares
        self.declared: list[int] = []
        self.slow_from = slow_from  # this attempt and those after it end at their limit
        self.depth = type("Depth", (), {"value": 0})()
        self.node = 0

    def pick(self, turn: int) -> int:
        return (self.first + turn) % NODES

    def avoid(self, node: int) -> None:
        if self.first == node:
            self.first = (node + 1) % NODES

    def declare(self, node: int, _entities: Any, _limits: Limits) -> None:
        self.declared.append(node)
        if not self.declares:
            raise Unreachable("down")

    def answer(self, node: int, limits: Limits, *, alone: bool) -> NotAcknowledged | None:
        self.asked.append((node, alone))
        if self.slow_from is not None and len(self.asked) > self.slow_from:
            sleep(max(0.0, limits.end - monotonic()))
        answer = next(self.answers, None)
        return answer and answer[0]("scripted", maybe_published=answer[1])

    # as links

    def link(self, node: int, _limits: Limits) -> Scripted:
        self.node = node
        return self

    def submit(self, batch: Sequence[Pending], until: float) -> None:
        for pending in batch:
            pending.settle(self.answer(self.node, POLICY.limits(until), alone=False))

    def wait(self, pending: Pending, _limits: Limits) -> None:
        assert pending.done

    def publish_alone(self, node: int, _wire: Wire, limits: Limits) -> None:
        if error := self.answer(node, limits, alone=True):
            raise error


def cluster(nodes: Any, policy: Policy = POLICY) -> Cluster:  # answers as Nodes do
    made = Cluster(nodes, policy)
    made.topology["tasks", "q"] = [object()]
    return made


def single(nodes: Scripted, policy: Policy = POLICY) -> NotAcknowledged | None:
    publisher = Publisher.__new__(Publisher)
    vars(publisher).update(vars(cluster(nodes, policy)))
    try:
        publisher.publish(MESSAGE)
    except NotAcknowledged as error:
        return error
    return None


def bulk(nodes: Scripted, policy: Policy = POLICY) -> NotAcknowledged | None:
    (outcome,) = Pipeline(cluster(nodes, policy)).run([MESSAGE.encode()])
    assert outcome.error is None or isinstance(outcome.error, NotAcknowledged)
    return outcome.error


def verdict(error: NotAcknowledged | None) -> object:
    return error and (type(error), error.detail, error.task_id, error.maybe_published)


@given(st.lists(ANSWERS, max_size=7), st.booleans())
@settings(max_examples=300)
def test_alone_and_in_a_bulk_a_message_takes_the_same_way(answers: list[Answer], declares: bool) -> None:
    one, many = Scripted(answers, declares=declares), Scripted(answers, declares=declares)
    assert verdict(single(one)) == verdict(bulk(many))
    assert one.asked == many.asked
    assert one.first == many.first
    assert one.declared == many.declared


@given(st.lists(ANSWERS, max_size=7))
@settings(max_examples=300)
def test_what_every_way_keeps_to(answers: list[Answer]) -> None:
    nodes = Scripted(answers, declares=False)
    error = single(nodes)
    told = answers[: len(nodes.asked)]
    assert (error is None) == (len(told) < len(nodes.asked) or told[-1] is None)
    for before, (_, alone) in zip([None, *told], nodes.asked, strict=False):
        assert alone == (before is not None and before[0] is Suspected), "after a suspicion, and only then, alone"
    if error is not None:
        assert not error.retryable, "what may pass is tried again for as long as the deadline allows"
        if any(answer and answer[1] and answer[0] is not Suspected for answer in told):
            assert error.maybe_published, "what may have arrived once is never said to be nowhere"
    if not any(answer and answer[0].retryable and answer[0] not in {Nacked, Blocked, Suspected} for answer in told):
        assert nodes.first == 0, "a node that answered is preferred as before"


@pytest.mark.parametrize("publish", [single, bulk])
def test_an_unroutable_message_does_not_make_a_healthy_node_unpopular(publish: Any) -> None:
    nodes = Scripted([(Unroutable, False)] * 3, declares=False)
    assert isinstance(publish(nodes), Unroutable)
    assert nodes.first == 0
    assert [node for node, _ in nodes.asked] == [0, 1]


@pytest.mark.parametrize("publish", [single, bulk])
def test_an_attempt_that_the_deadline_cut_off_hides_no_clearer_answer(publish: Any) -> None:
    nodes = Scripted([(Nacked, False), (TimedOut, True)], slow_from=1)
    error = publish(nodes, Policy(deadline=2.0, attempt=5.0, backoff=1e-6, backoff_max=1e-6))
    assert isinstance(error, Nacked)
    assert error.maybe_published
    assert len(nodes.asked) == 2


@pytest.mark.parametrize("publish", [single, bulk])
@pytest.mark.parametrize("last", [TimedOut, Unroutable])
def test_a_suspected_message_without_an_answer_of_its_own_may_have_arrived(publish: Any, last: Any) -> None:
    nodes = Scripted([(Suspected, True), (last, False), *[(Refused, False)] * 2], declares=False)
    error = publish(nodes)
    assert error.maybe_published is (last is TimedOut)


def test_a_queue_is_declared_once() -> None:
    nodes = Scripted([(Unroutable, False)] * 9)
    assert isinstance(single(nodes), Unroutable)
    assert nodes.declared == [1]
    assert Counter(node for node, _ in nodes.asked) == {0: 1, 1: 2}


def test_attempts_end_at_the_deadline() -> None:
    policy = Policy(deadline=1.0, attempt=10, backoff=0.05)
    attempts = Attempts(cluster(Scripted([]), policy), MESSAGE.encode(), None)
    started = monotonic()
    pause: float | None = 0.0
    limits = []
    while pause is not None:
        sleep(pause)
        attempts.begin()
        limits.append(attempts.limits)
        pause = attempts.failed(Nacked("no"), monotonic())
    assert len(limits) > 1
    assert monotonic() - started < 10
    assert all(limit.until <= limit.end <= started + policy.deadline for limit in limits)

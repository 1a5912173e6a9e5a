"""Publishing while the cluster fails: first what stock Celery does with the same settings, then what the layer does."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.publisher import (
    Blocked,
    Message,
    Nacked,
    NotAcknowledged,
    Refused,
    Unroutable,
    publish_many,
    publisher_of,
)

from .publishing import cut_off, leader, publishing, stock, stored, whole
from .stack import DEADLINE, wait_until

if TYPE_CHECKING:
    from .rig import Rig

pytestmark = pytest.mark.stack

LATE = 8  # seconds that a busy machine may take beyond a deadline; that of no setting, 20 s, is told apart from it
HUNG = 12  # seconds; with confirm_timeout 2 and two nodes anything that knows a deadline has answered
NOWHERE = {"exchange": "", "exchange_type": "topic", "routing_key": "nobody"}  # the default exchange has no alternate


def error_of(task: Any, **options: Any) -> tuple[Exception | None, float]:
    """Publish once; return what was raised and the seconds it took."""
    started = monotonic()
    try:
        task.apply_async((1,), **options)
    except Exception as error:  # noqa: BLE001 - returned to the test
        return error, monotonic() - started
    return None, monotonic() - started


def test_frozen_node(rig: Rig) -> None:
    """celery#2312, celery#975: failover hangs in closing the channel of the node that does not answer."""
    whole(rig)
    with (
        stock(rig, "attempt(confirm_timeout=60)\npause()\nattempt()", "rabbit1", "rabbit2") as child,
        publishing(rig, "rabbit1", "rabbit2") as echo,
    ):
        first = child.hear(DEADLINE)
        assert first is not None
        assert first["error"] is None
        assert child.hear(DEADLINE) == {"ready": True}
        assert error_of(echo)[0] is None
        with rig.paused("rabbit1"):
            child.go_on()
            error, seconds = error_of(echo)
            assert error is None, "acknowledged by the other node"
            assert 3 <= seconds < 3 + LATE, "after one attempt at the frozen one"
            assert publisher_of(echo.app).nodes.pick(0) == 1, "which is not asked first again"
            assert error_of(echo)[0] is None
            assert child.hear(HUNG) is None, "stock Celery hangs, although every message has confirm_timeout=2"


def test_disk_alarm(rig: Rig) -> None:
    """A blocked publisher is told so within its deadline, and goes on when the alarm is over."""
    whole(rig)
    with publishing(rig, "rabbit1", "rabbit2", holdfast_publish_deadline=4.0) as echo:

        def blocked() -> bool:
            error, seconds = error_of(echo)
            assert seconds < 4 + LATE
            return isinstance(error, Blocked)

        with rig.disk_alarm("rabbit2"):
            wait_until(blocked, "it is told that it is blocked")  # the broker takes the first one of each connection
        assert error_of(echo, confirm_timeout=DEADLINE)[0] is None


def test_full_queue(rig: Rig) -> None:
    """celery#9149: a nack is given up after a few reconnects in a row; here it is retried until there is room."""
    rig.declare(max_length=1)
    with stock(rig, "while True: attempt()") as child:
        wait_until(lambda: (child.hear(60) or {}).get("error") == "OperationalError", "stock Celery gives up")
    with publishing(rig) as echo:
        wait_until(lambda: isinstance(error_of(echo, confirm_timeout=2)[0], Nacked), "the queue is full")
        error, seconds = error_of(echo, confirm_timeout=4)
        assert isinstance(error, Nacked)
        assert not error.maybe_published
        assert 1 < seconds < 4 + LATE
        room = threading.Timer(1.0, lambda: stored(rig))
        room.start()
        assert error_of(echo, confirm_timeout=DEADLINE)[0] is None, "acknowledged as soon as there is room"
        room.join()


def test_late_ack(rig: Rig) -> None:
    """A node that thaws acknowledges what was given up; that confirms nothing else."""
    whole(rig)
    rig.declare(max_length=1)
    with publishing(rig, "rabbit1") as echo:
        wait_until(lambda: isinstance(error_of(echo, confirm_timeout=2)[0], Nacked), "the queue is full")
        with rig.paused("rabbit1"):
            assert isinstance(error_of(echo, confirm_timeout=1)[0], NotAcknowledged)
        assert isinstance(error_of(echo, task_id="refused", confirm_timeout=8)[0], NotAcknowledged)
    assert "refused" not in stored(rig)


def test_a_nack_of_a_full_queue_does_not_touch_the_other_callers(rig: Rig) -> None:
    rig.declare(max_length=1)
    with publishing(rig) as echo:
        wait_until(lambda: isinstance(error_of(echo, confirm_timeout=2)[0], Nacked), "the queue is full")
        publisher = publisher_of(echo.app)
        link = publisher.nodes.link(publisher.nodes.pick(0), publisher.policy.limits(monotonic() + DEADLINE))
        assert isinstance(error_of(echo, confirm_timeout=4)[0], Nacked)
        assert link.dead is None


def test_unroutable(rig: Rig) -> None:
    """Confirms alone call a message that no queue receives published."""
    with publishing(rig) as echo:
        error, _ = error_of(echo, **NOWHERE)
        assert isinstance(error, Unroutable)
        assert not error.maybe_published
        assert "no queue is bound to exchange '' for key 'nobody'" in str(error)
        assert error_of(echo)[0] is None
    assert len(set(stored(rig))) == 1


@pytest.mark.parametrize(
    ("options", "args", "kind"),
    [
        ({"exchange": "missing", "exchange_type": "topic", "routing_key": "x"}, (1,), Unroutable),
        ({}, ("x" * 17_000_000,), Refused),
    ],
    ids=["missing exchange", "above the broker's limit"],
)
def test_a_closed_channel_hurts_only_the_message_that_closed_it(
    rig: Rig, options: dict[str, str], args: tuple[Any, ...], kind: type[NotAcknowledged]
) -> None:
    """The broker closes the channel for one message; the others under way on it are acknowledged all the same."""
    good: list[Exception | None] = []
    slow = {"holdfast_publish_deadline": DEADLINE, "holdfast_publish_attempt": DEADLINE}  # 17 MB on a busy machine
    with publishing(rig, holdfast_publish_max_bytes=2**30, **slow) as echo:
        callers = [threading.Thread(target=lambda: good.append(error_of(echo)[0])) for _ in range(20)]
        for caller in callers[:10]:
            caller.start()
        with pytest.raises(kind) as caught:
            echo.apply_async(args, **options)
        for caller in callers[10:]:
            caller.start()
        for caller in callers:
            caller.join()
    assert not caught.value.maybe_published
    assert good == [None] * 20


def test_an_oversized_message_is_refused_before_it_is_sent(rig: Rig) -> None:
    with publishing(rig) as echo, pytest.raises(Refused, match="17000079 bytes, 16777216 are allowed"):
        echo.apply_async(("x" * 17_000_000,))


def test_killed_leader(rig: Rig) -> None:
    """Every task whose publish returned lies in the queue after its leader was killed in the middle of the load."""
    whole(rig)
    with publishing(rig) as echo:
        acknowledged, unknown = publish_while(echo, lambda: rig.stack.kill(leader(rig)), 20)
        whole(rig)
    kept = set(stored(rig))
    assert len(acknowledged) > 200
    assert not unknown, "the deadline outlasts the election"
    assert acknowledged <= kept


def test_minority_node(rig: Rig) -> None:
    """A node without majority confirms nothing; the publisher moves on, stock Celery asks the same node again."""
    whole(rig)
    with publishing(rig, "rabbit1", "rabbit2") as echo:
        assert error_of(echo)[0] is None
        with cut_off(rig, "rabbit1"):
            assert error_of(echo)[0] is None
            assert publisher_of(echo.app).nodes.pick(0) == 1, "it is not asked first again"
            assert error_of(echo)[0] is None
    assert len(set(stored(rig))) == 3


def test_no_majority_at_all(rig: Rig) -> None:
    """With two of three nodes frozen there is no confirm, and no promise; afterwards everything works again."""
    whole(rig)
    with publishing(rig, "rabbit1", holdfast_publish_deadline=5.0) as echo:
        assert error_of(echo)[0] is None
        with rig.paused("rabbit2", "rabbit3"):
            error, seconds = error_of(echo)
            assert isinstance(error, NotAcknowledged)
            assert seconds < 5 + LATE
        whole(rig)
        assert error_of(echo, confirm_timeout=DEADLINE)[0] is None


def test_the_fallback_takes_what_a_dead_cluster_cannot(rig: Rig) -> None:
    whole(rig)
    taken: list[Message] = []
    with publishing(rig, holdfast_publish_deadline=3.0, holdfast_publish_fallback=taken.append) as echo:
        with rig.paused("rabbit1", "rabbit2", "rabbit3"):
            result = echo.delay(1)
            assert [message.task_id for message in taken] == [result.id]
        whole(rig)
        publisher = publisher_of(echo.app)
        assert [outcome.acknowledged for outcome in publisher.publish_all(taken, deadline=DEADLINE)] == [True]
    assert result.id in stored(rig)


def test_bulk_survives_a_killed_leader(rig: Rig) -> None:
    whole(rig)
    victim, count = leader(rig), 8000
    with publishing(rig) as echo:
        kill = threading.Timer(0.3, lambda: rig.stack.kill(victim))
        kill.start()
        outcomes = publish_many(echo.app, (echo.s(n).set(task_id=f"bulk-{n}") for n in range(count)), window=200)
        kill.join()
        whole(rig)
    assert [outcome.index for outcome in outcomes] == list(range(count))
    assert all(outcome.acknowledged for outcome in outcomes)
    assert {f"bulk-{n}" for n in range(count)} <= set(stored(rig))


def publish_while(task: Any, fault: Any, seconds: float) -> tuple[set[str], list[Exception]]:
    """Publish from eight threads for some seconds, with a fault after the first tenth of them.

    Returns the ids that were acknowledged and the errors.
    """
    acknowledged: set[str] = set()
    errors: list[Exception] = []
    end = monotonic() + seconds

    def publish() -> None:
        while monotonic() < end:
            try:
                acknowledged.add(task.delay(1).id)
            except NotAcknowledged as error:
                errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    timer = threading.Timer(seconds / 10, fault)
    timer.start()
    for thread in [*threads, timer]:
        thread.join()
    return acknowledged, errors

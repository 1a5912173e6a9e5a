"""A delivery ends delivered or dead, whatever is repeated; its steps run for real against SQLite and HTTP."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError, StatementError

from holdfast.dead import REPLAY_HEADER
from webhooks import db, delivery, intake, tasks
from webhooks.models import DEAD, DELIVERED, PENDING, Delivery, Effect, Report, now
from webhooks.receiver import Behaviour, Receiver

from .test_signature import KEYS

if TYPE_CHECKING:
    from celery.result import EagerResult


def run(delivery_id: str, replay: int = 0) -> EagerResult[object]:
    """Run the task here and now; its retries follow at once."""
    return tasks.deliver.apply((delivery_id,), task_id=delivery_id, headers={REPLAY_HEADER: str(replay)})


def row(delivery_id: str) -> Delivery:
    with db.transaction() as session:
        found = session.get(Delivery, delivery_id)
        assert found is not None
        return found


def columns(delivery_id: str) -> dict[str, object]:
    found = row(delivery_id)
    return {column.name: getattr(found, column.name) for column in Delivery.__table__.columns}


def effects() -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(Effect)) or 0


def test_a_delivery_carries_its_payload_and_key(accepted: str, server: Receiver) -> None:
    result = run(accepted)
    assert result.state == "SUCCESS"
    assert result.result == {"delivery": accepted, "status": 200}
    (entry,) = server.log.select("/hook")
    assert (entry["key"], entry["body"]) == (accepted, '{"n":1}')
    assert (row(accepted).status, row(accepted).attempts, effects()) == (DELIVERED, 1, 1)
    assert row(accepted).finished_at is not None


def test_it_is_tried_again_until_it_succeeds(accepted: str, server: Receiver) -> None:
    server.control("/hook", Behaviour(fail_next=2, status=503))
    assert run(accepted).state == "SUCCESS"
    assert (row(accepted).status, row(accepted).attempts, row(accepted).last_error) == (DELIVERED, 3, None)
    assert [entry["status"] for entry in server.log.select("/hook")] == [503, 503, 200]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 504])
def test_a_status_worth_another_attempt(accepted: str, server: Receiver, status: int) -> None:
    server.control("/hook", Behaviour(fail_next=1, status=status))
    assert run(accepted).state == "SUCCESS"
    assert row(accepted).attempts == 2


def test_the_last_attempt_ends_in_a_failure_that_celery_rejects(accepted: str, server: Receiver) -> None:
    server.control("/hook", Behaviour(fail_next=-1, status=500))
    result = run(accepted)
    assert result.state == "FAILURE"
    assert isinstance(result.result, delivery.PermanentError)
    assert "HTTP 500 (attempt 4)" in str(result.result)
    assert (row(accepted).status, row(accepted).attempts, effects()) == (DEAD, 4, 0)
    assert server.log.counts("/hook")["requests"] == 4


@pytest.mark.parametrize("status", [301, 400, 404, 410])
def test_a_refusal_is_final_at_once(accepted: str, server: Receiver, status: int) -> None:
    server.control("/hook", Behaviour(fail_next=-1, status=status))
    assert run(accepted).state == "FAILURE"
    assert (row(accepted).status, row(accepted).attempts) == (DEAD, 1)
    assert row(accepted).last_error == f"HTTP {status}"


def test_a_slow_receiver_is_tried_again(accepted: str, server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOKS_TIMEOUT", "1")
    monkeypatch.setenv("WEBHOOKS_MAX_ATTEMPTS", "1")
    server.control("/hook", Behaviour(delay=1.5))
    result = run(accepted)
    assert "ReadTimeout" in str(result.result)
    assert row(accepted).status == DEAD


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://10.1.2.3/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://0x0a000001/",
        "https://user:password@example.org/",
        "https://example.org/a b",
        "https://example.org/\r\nX-Injected: 1",
    ],
)
def test_an_address_that_nobody_may_reach_is_final(url: str) -> None:
    (stored,) = intake.accept([intake.Request(url=url, payload=None, queue="default")])
    assert run(stored.id).state == "FAILURE"
    assert (row(stored.id).status, row(stored.id).attempts) == (DEAD, 1)


def test_a_delivery_is_signed_with_every_key(accepted: str, server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOKS_SIGNING_KEYS", f"{KEYS[0]},{KEYS[1]}")
    assert run(accepted).state == "SUCCESS"
    (entry,) = server.log.select("/hook")
    assert entry["status"] == 200


CANARY = "canary-5f1c9a"  # stands for a secret that a user has put into address, query and payload


@pytest.mark.parametrize("answer", [200, 400, 503, 0], ids=["delivered", "refused", "later", "nobody-listens"])
def test_no_address_and_no_payload_gets_into_logs_results_or_errors(
    server: Receiver, caplog: pytest.LogCaptureFixture, answer: int
) -> None:
    caplog.set_level("DEBUG")
    port = server.server_port if answer else 1
    server.control(f"/{CANARY}", Behaviour(fail_next=0 if answer == 200 else -1, status=answer or 503))
    request = intake.Request(f"http://127.0.0.1:{port}/{CANARY}?key={CANARY}", {"key": CANARY}, "default")
    (stored,) = intake.accept([request])
    result = run(stored.id)
    assert result.state == ("SUCCESS" if answer == 200 else "FAILURE")
    seen = [str(result.result), repr(result.result), str(result.traceback), str(row(stored.id).last_error), caplog.text]
    assert [text for text in seen if CANARY in text] == []
    assert "celery" in caplog.text, "nothing was logged, so this showed nothing"


def test_an_error_of_the_database_does_not_quote_the_row() -> None:
    unknown: Any = None
    wrong = intake.Request(f"https://example.org/{CANARY}", {"key": CANARY}, queue=unknown)
    with pytest.raises(StatementError) as caught:
        intake.accept([wrong])
    assert "INSERT" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_database_that_is_away_costs_no_attempt(accepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, calls = delivery.begin, []

    def begin_later(delivery_id: str, replay: int) -> Delivery:
        calls.append(delivery_id)
        if len(calls) < 3:
            raise OperationalError("SELECT 1", {}, Exception("the database is away"))
        return begin(delivery_id, replay)

    monkeypatch.setattr(delivery, "begin", begin_later)
    assert run(accepted).state == "SUCCESS"
    assert (len(calls), row(accepted).attempts) == (3, 1)


def test_nobody_listening_is_worth_another_attempt() -> None:
    (refused,) = intake.accept([intake.Request(url="http://127.0.0.1:1/", payload=None, queue="default")])
    with pytest.raises(delivery.TemporaryError, match="ConnectError"):
        delivery.post(refused)


def test_an_address_that_cannot_be_is_final() -> None:
    (wrong,) = intake.accept([intake.Request(url="http://a:b:c/", payload=None, queue="default")])
    with pytest.raises(delivery.PermanentError):
        delivery.post(wrong)


def test_an_unknown_delivery_is_final() -> None:
    assert isinstance(run("no-such-id").result, delivery.PermanentError)


def test_a_second_execution_changes_nothing(accepted: str, server: Receiver) -> None:
    run(accepted)
    before = columns(accepted)
    assert run(accepted).result == {"delivery": accepted, "status": 200}, "a repeat returns what the first one did"
    assert columns(accepted) == before
    assert effects() == 1
    assert server.log.counts("/hook")["requests"] == 1


def test_executions_at_the_same_time_have_one_effect(accepted: str, server: Receiver) -> None:
    copies = 6
    server.control("/hook", Behaviour(delay=0.3))  # all copies are in flight before the first answer
    together = threading.Barrier(copies)

    def execute(_: int) -> object:
        together.wait()
        return run(accepted).result

    with ThreadPoolExecutor(copies) as pool:
        results = list(pool.map(execute, range(copies)))
    assert results == [{"delivery": accepted, "status": 200}] * copies
    assert effects() == 1
    assert row(accepted).attempts == 1
    counts = server.log.counts("/hook")
    assert counts["requests"] > 1, "the copies did not overlap, so this showed nothing"
    assert counts["unique"] == 1


def test_a_failure_cannot_undo_a_success(accepted: str) -> None:
    stale = row(accepted)
    assert delivery.succeed(accepted, accepted, 200)
    delivery.fail(stale, delivery.PermanentError("late"))
    assert (row(accepted).status, row(accepted).last_error) == (DELIVERED, None)
    assert delivery.succeed(accepted, "another task", 204)["status"] == 200
    assert effects() == 1


def test_the_effect_and_the_mark_are_one_transaction(accepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> Effect:
        raise RuntimeError("crash between mark and effect")

    with monkeypatch.context() as patched:
        patched.setattr(delivery, "Effect", broken)
        with pytest.raises(RuntimeError):
            delivery.succeed(accepted, accepted, 200)
    assert row(accepted).status == PENDING
    assert delivery.succeed(accepted, accepted, 200)


def test_a_replay_gets_all_attempts_anew_but_a_late_copy_does_not(accepted: str, server: Receiver) -> None:
    server.control("/hook", Behaviour(fail_next=-1, status=503))
    run(accepted)
    assert row(accepted).status == DEAD
    server.control("/hook", Behaviour(fail_next=3, status=503))
    assert run(accepted).state == "FAILURE", "a copy without a replay's mark stays dead, and goes to the dead again"
    assert server.log.counts("/hook")["requests"] == 4
    assert run(accepted, replay=1).state == "SUCCESS"
    assert (row(accepted).status, row(accepted).attempts, effects()) == (DELIVERED, 4, 1)


@given(
    attempt=st.integers(min_value=1, max_value=10_000),
    base=st.integers(min_value=1, max_value=3600),
    cap=st.integers(min_value=1, max_value=86_400),
)
def test_waits_grow_within_bounds(attempt: int, base: int, cap: int) -> None:
    wait = delivery.retry_wait(attempt, base, cap)
    longest = min(cap, base * 2 ** (attempt - 1))
    assert isinstance(wait, int), "the broker's delay takes whole seconds"
    assert max(1, longest // 2) <= wait <= max(1, longest)


def test_waits_differ() -> None:
    assert len({delivery.retry_wait(8, 2, 300) for _ in range(100)}) > 10


def age(delivery_id: str, seconds: int) -> None:
    """Make a delivery older, and due that long ago."""
    with db.transaction() as session:
        old = session.get_one(Delivery, delivery_id)
        old.created_at = old.next_attempt_at = now() - timedelta(seconds=seconds)


def test_what_was_never_published_is_overdue_once(accepted: str) -> None:
    assert delivery.take_overdue(10) == []
    age(accepted, 61)
    assert [taken.id for taken in delivery.take_overdue(10)] == [accepted]
    assert delivery.take_overdue(10) == [], "the next time comes when its age has doubled"
    assert row(accepted).next_attempt_at > now() + timedelta(seconds=55)


def test_the_overdue_are_taken_oldest_first_and_in_limits(url: str) -> None:
    rows = intake.accept(intake.Request(url, number, "default") for number in range(5))
    for position, accepted in enumerate(rows):
        age(accepted.id, 100 + position)
    assert [taken.id for taken in delivery.take_overdue(2)] == [rows[4].id, rows[3].id]


def test_the_ended_are_never_overdue(accepted: str, server: Receiver) -> None:
    server.control("/hook", Behaviour(fail_next=-1, status=400))
    run(accepted)
    age(accepted, 1000)
    assert delivery.take_overdue(10) == []


def test_a_batch_has_one_report(url: str, server: Receiver) -> None:
    server.control("/refuses", Behaviour(fail_next=-1, status=410))
    targets = [url, url, url.replace("/hook", "/refuses")]
    rows = intake.accept([intake.Request(target, {}, "default") for target in targets], batch=True)
    batch = str(rows[0].batch_id)
    run(rows[0].id)
    run(rows[1].id)
    assert delivery.batches_without_report(10) == [], "one delivery is pending"
    run(rows[2].id)
    assert delivery.batches_without_report(10) == [batch]
    expected = {"total": 3, "delivered": 2, "dead": 1, "pending": 0}
    assert tasks.report.apply((batch,)).result == expected
    assert tasks.report.apply((batch,)).result == expected
    assert delivery.batches_without_report(10) == []

    server.control("/refuses", Behaviour())
    run(rows[2].id, replay=1)
    assert delivery.batches_without_report(10) == [batch], "a replay outdates the report"
    assert tasks.report.apply((batch,)).result == expected | {"delivered": 3, "dead": 0}
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Report)) == 1


def test_reports_written_at_the_same_time_are_one(url: str) -> None:
    rows = intake.accept([intake.Request(url, {}, "default")], batch=True)
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(delivery.write_report, [str(rows[0].batch_id)] * 4))
    assert all(written)


def test_a_report_of_no_batch_is_final() -> None:
    assert isinstance(tasks.report.apply(("no-such-id",)).result, delivery.PermanentError)

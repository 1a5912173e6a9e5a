"""The worker's side of one message: every way out settles it once, and no missing store ends the worker."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError, TimeLimitExceeded
from celery.worker import state
from failing import failure

from holdfast.app import install
from holdfast.request import PutBack, Request, record


class Settled:
    """A message that notes how it was settled."""

    def __init__(self, headers: dict[str, Any] | None = None, **extra: Any) -> None:
        self.how: list[Any] = []
        self.headers = {"id": "id", "task": "t", **(headers or {})}
        self.payload: tuple[list[Any], dict[str, Any], dict[str, Any]] = ([], {}, {})
        self.body, self.content_type, self.content_encoding = b"[[], {}, {}]", "application/json", "utf-8"
        self.properties: dict[str, Any] = {}
        self.delivery_info = {"exchange": "tasks", "routing_key": "q", "redelivered": False}
        vars(self).update(extra)

    def put_back(self) -> None:
        self.how.append("put back")


@pytest.fixture
def app() -> Celery:
    app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    install(app)
    app.conf.update(task_acks_late=True, task_acks_on_timeout=False, task_reject_on_worker_lost=True)

    @app.task(name="t", shared=False)
    def nothing() -> None:
        """Do nothing."""

    app.finalize()
    return app


def request(app: Celery, message: Settled) -> Any:
    return Request(
        message,
        app=app,
        task=app.tasks["t"],
        headers=message.headers,
        on_ack=lambda *_: message.how.append("ack"),
        on_reject=lambda _logger, _errors, requeue: message.how.append(("reject", requeue)),
    )


def away(*_args: Any, **_kwargs: Any) -> None:
    raise PutBack("the store is away")


def test_a_task_that_could_not_be_finished_goes_back_uncounted(app: Celery) -> None:
    message = Settled()
    one = request(app, message)
    one.on_failure(failure(PutBack("no store")))
    one.on_failure(failure(PutBack("no store")))
    assert message.how == ["put back"]


def test_under_another_consumer_it_is_requeued_as_celery_does(app: Celery) -> None:
    message = Settled()
    vars(message)["put_back"] = None
    request(app, message).put_back()
    assert message.how == [("reject", True)]


def test_a_state_that_cannot_be_recorded_settles_nothing_for_good(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mark_as_failure", "mark_as_revoked"):
        monkeypatch.setattr(app.backend, name, away)
    expired = Settled({"expires": "2020-01-01T00:00:00+00:00"})
    assert request(app, expired).revoked() is True
    assert expired.how == ["put back"]
    failed = Settled()
    vars(app.tasks["t"])["acks_on_failure"] = True
    request(app, failed).on_failure(failure(ValueError("x")))
    assert failed.how == ["ack"]  # Celery settles before it records; the worker lives on


def test_an_expired_task_is_handed_over_once_and_its_id_stays_free(app: Celery) -> None:
    taken: list[Any] = []
    message = Settled({"id": "again", "expires": "2020-01-01T00:00:00+00:00"}, settle_expired=taken.append)
    one = request(app, message)
    assert one.revoked()
    assert one.revoked()
    assert (taken, message.how) == ([one], [])
    one.settle_revoked("expired", False, None, True)
    assert message.how == ["ack"]
    assert app.backend.get_task_meta("again")["status"] == "REVOKED"
    assert not request(app, Settled({"id": "again", "expires": "2999-01-01T00:00:00+00:00"})).revoked()


def test_a_message_that_no_store_can_note_fails_alone(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.backend, "store_revoked", lambda contexts, _why: set(contexts), raising=False)
    late = {"expires": "2020-01-01T00:00:00+00:00"}
    odd, good = request(app, Settled(late, payload=([], {}, 5))), request(app, Settled({**late, "id": "good"}))
    assert record([odd, good]) == [odd, good]
    assert (odd.recorded, good.recorded) == (False, True)
    with pytest.raises(TypeError):
        odd.settle_revoked("expired", False, None, True)


def test_what_waited_for_the_pool_and_goes_back_is_no_longer_kept(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.backend, "store_revoked", away, raising=False)
    one = request(app, Settled({"expires": "2020-01-01T00:00:00+00:00"}))
    state.task_reserved(one)
    assert record([one]) == []
    assert (one.id in state.requests, one in state.reserved_requests) == (False, False)


def test_what_is_recorded_is_not_stored_again(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    message = Settled({"expires": "2020-01-01T00:00:00+00:00"})
    one = request(app, message)
    one.recorded = True
    monkeypatch.setattr(app.backend, "store_result", away)
    one.settle_revoked("expired", False, None, True)
    assert message.how == ["ack"]


def test_a_hard_limit_counts_and_records_nothing_while_the_task_may_still_succeed(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []
    monkeypatch.setattr(app.backend, "mark_as_failure", lambda *args, **_: recorded.append(args))
    message = Settled()
    one = request(app, message)
    one.on_timeout(False, 5)
    one.on_failure(failure(TimeLimitExceeded(5)))
    assert (message.how, recorded) == ([("reject", True)], [])


def test_a_lost_child_of_a_chord_runs_again_even_if_its_result_is_there(app: Celery) -> None:
    app.backend.store_result("id", 1, "SUCCESS")
    alone, member = request(app, Settled()), request(app, Settled({"chord": {"task": "body"}}))
    assert alone._success_was_stored()["status"] == "SUCCESS"
    assert member._success_was_stored() is False


@pytest.mark.parametrize("limits", ["x", [1], [1, "2"], [1, 2, 3]])
def test_broken_time_limits_are_found_before_a_slot_is_taken(app: Celery, limits: object) -> None:
    with pytest.raises(InvalidTaskError, match="invalid time limits"):
        request(app, Settled({"timelimit": limits}))

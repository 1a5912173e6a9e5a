"""Retries and delays: what is published, and what becomes of the original when it cannot be."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from amqp.exceptions import ConnectionForced
from celery import Celery
from celery.exceptions import Reject, Retry
from kombu.exceptions import EncodeError

from holdfast import task as holdfast_task
from holdfast.publisher import Nacked, Refused, Unroutable
from holdfast.request import PutBack

if TYPE_CHECKING:
    from holdfast.task import Task


def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def app() -> Celery:
    app = Celery("unit", broker="memory://", set_as_current=False)
    holdfast_task.install(app)
    return app


@pytest.fixture
def sent(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect the options of every publish instead of publishing."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(
        app, "send_task", lambda *_args, **options: found.append(options) or app.AsyncResult(options["task_id"] or "id")
    )
    return found


def retry(app: Celery, failure: Exception | None, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Run a task that retries, as a worker does, with a publish that ends in ``failure``."""

    @app.task(bind=True, default_retry_delay=7, name=f"unlucky-{options}", shared=False)
    def unlucky(self: Task) -> None:
        raise self.retry(**options)

    def publish(*_args: Any, **_options: Any) -> Any:
        if failure:
            raise failure
        return app.AsyncResult("id")

    monkeypatch.setattr(app, "send_task", publish)
    unlucky.push_request(id="id", called_directly=False, is_eager=False, retries=0, args=[], kwargs={})
    try:
        unlucky.run()
    finally:
        unlucky.pop_request()


@pytest.mark.parametrize(("asked", "used"), [(0.2, 1), (1, 1), (1.5, 2), (60, 60), (0, 0)])
def test_a_countdown_is_rounded_up_to_whole_seconds(
    app: Celery, sent: list[dict[str, Any]], asked: float, used: int
) -> None:
    app.task(nothing, name="t", shared=False).apply_async(countdown=asked)
    assert sent[0]["countdown"] == used


def test_an_eta_within_two_seconds_becomes_a_countdown(app: Celery, sent: list[dict[str, Any]]) -> None:
    task = app.task(nothing, name="t", shared=False)
    task.apply_async(eta=datetime.now(UTC) + timedelta(seconds=0.5))
    task.apply_async(eta=datetime.now(UTC) + timedelta(seconds=1.5))
    later = datetime.now(UTC) + timedelta(seconds=30)
    task.apply_async(eta=later)
    assert [(options.get("eta"), options.get("countdown")) for options in sent] == [(None, 1), (None, 2), (later, None)]


def test_a_published_retry_raises_retry(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Retry):
        retry(app, None, monkeypatch, countdown=1)


@pytest.mark.parametrize(
    "failure", [Nacked("full"), ConnectionForced("shutdown"), ConnectionRefusedError("no broker")], ids=repr
)
def test_a_retry_that_no_broker_takes_puts_the_original_back(
    app: Celery, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    with pytest.raises(PutBack, match="its retry was not accepted") as caught:
        retry(app, failure, monkeypatch, countdown=2)
    assert caught.value.requeue is True


@pytest.mark.parametrize("failure", [Refused("too large"), Unroutable("no queue"), EncodeError("no JSON")], ids=repr)
def test_a_retry_that_can_never_be_published_is_dead_lettered(
    app: Celery, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    with pytest.raises(Reject) as caught:
        retry(app, failure, monkeypatch, countdown=2)
    assert type(caught.value) is Reject
    assert caught.value.args == (failure, False)


def test_the_base_class_comes_before_the_first_task() -> None:
    app = Celery("unit", broker="memory://", set_as_current=False)
    assert app.Task
    with pytest.raises(RuntimeError, match=r"Call holdfast\.install\(app\) right after Celery"):
        holdfast_task.install(app)


def test_put_back_travels_from_child_to_parent() -> None:
    copy = pickle.loads(pickle.dumps(PutBack("no store")))  # noqa: S301 - made here
    assert (type(copy), copy.reason, copy.requeue) == (PutBack, "no store", True)

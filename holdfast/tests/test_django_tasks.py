"""The backend for Django's own tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.db import transaction
from django.utils import timezone
from django_contract import broker, tables
from django_project import app

if TYPE_CHECKING:
    from django_contract import Broker

if django.VERSION < (6, 0):
    pytest.skip("Django has tasks from 6.0 on", allow_module_level=True)

import django_tasks
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_finished

from holdfast.django.models import Outbox

__all__ = ["broker", "tables"]  # fixtures


@pytest.fixture(autouse=True)
def current(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's application is the current one."""
    app.finalize()
    monkeypatch.setattr("celery._state.get_current_app", lambda: app)


def test_in_a_transaction_the_task_is_a_row_of_it(broker: Broker) -> None:
    with transaction.atomic():
        result = django_tasks.double.enqueue(21)
        assert Outbox.objects.get().task_id == result.id
    (message,) = broker.seen
    assert message.task_id == result.id
    assert message.headers["shadow"] == "django_tasks.double"
    with transaction.atomic():
        django_tasks.double.enqueue(21)
        transaction.set_rollback(True)
    assert len(broker.seen) == 1


def test_without_a_transaction_the_task_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        app.tasks["holdfast.django.call"], "apply_async", lambda *args, **options: sent.append((args, options))
    )
    later = timezone.now() + timedelta(hours=1)
    django_tasks.attempt.using(run_after=later).enqueue(fail=True)
    ((((path, alias, args, kwargs), _), options),) = sent
    assert (path, alias, args, kwargs) == ("django_tasks.attempt", "default", [], {"fail": True})
    assert (options["queue"], options["eta"]) == ("mail", later)


def test_the_task_runs_and_says_so() -> None:
    finished: list[str] = []

    def note(task_result: Any, **_: Any) -> None:
        finished.append(task_result.status)

    task_finished.connect(note)
    call = app.tasks["holdfast.django.call"]
    assert call.apply(("django_tasks.double", "default", [21], {})).get() == {"doubled": 42}
    assert call.apply(("django_tasks.attempt", "default", [], {}), retries=2).get() == 3
    with pytest.raises(LookupError, match="as asked"):
        call.apply(("django_tasks.attempt", "default", [], {"fail": True})).get()
    assert finished == ["SUCCESSFUL", "SUCCESSFUL", "FAILED"]


@pytest.mark.parametrize("change", [{"priority": 5}, {"queue_name": "nowhere"}], ids=str)
def test_what_cannot_be_kept_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidTask):
        django_tasks.double.using(**change)

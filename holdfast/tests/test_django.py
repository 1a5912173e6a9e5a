"""``holdfast.django`` on SQLite, and what does not depend on the database."""

from __future__ import annotations

import json
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from amqp.exceptions import AccessRefused
from celery import Celery
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import Client
from django_contract import ROWS, DjangoContract, add_rows, broker, tables
from django_project import add, app

from holdfast import dead, where
from holdfast.django import capture_enqueued, enqueue
from holdfast.django.application import application
from holdfast.django.models import Outbox
from holdfast.django.outbox import store_message
from holdfast.outbox.rows import now
from holdfast.publisher import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django_contract import Broker

__all__ = ["broker", "tables"]  # fixtures


class TestDjango(DjangoContract):
    """All of the contract, on SQLite unless HOLDFAST_TEST_DATABASE names another database."""


def test_the_migrations_are_those_of_the_models() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_either_library_reads_the_rows_of_the_other() -> None:
    from sqlalchemy import create_engine

    from holdfast import outbox
    from holdfast.outbox.store import EngineRows

    engine = create_engine(f"sqlite:///{connection.settings_dict['NAME']}")
    ids = add_rows(2)
    rows = EngineRows(engine)
    assert [row.task_id for row in rows.claim(1, lease=3600)] == ids[:1]
    assert [row.task_id for row in ROWS.claim(5, lease=3600)] == ids[1:]
    with engine.begin() as session:
        other = outbox.enqueue(session, add.s(1, 2))
    assert [row.task_id for row in ROWS.claim(5, lease=3600)] == [other]
    assert rows.backlog() == ROWS.backlog()
    engine.dispose()


def test_delay_on_commit_is_stored_in_the_transaction(broker: Broker) -> None:
    with transaction.atomic():
        add.delay_on_commit(1, y=2)
        add.apply_async_on_commit((3, 4), queue="celery", priority=3)
        assert Outbox.objects.count() == 2
    assert len(broker.seen) == 2
    assert broker.seen[1].properties["priority"] == 3
    with transaction.atomic():
        add.delay_on_commit(1, 2)
        transaction.set_rollback(True)
    assert len(broker.seen) == 2


def test_delay_on_commit_without_a_transaction_publishes(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(add, "apply_async", lambda *args, **options: sent.append((args, options)))
    add.delay_on_commit(1, 2)
    assert sent == [(((1, 2), {}), {})]
    assert not broker.seen


def test_an_eager_task_runs_after_the_commit(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, int]] = []
    monkeypatch.setitem(app.conf, "task_always_eager", True)
    monkeypatch.setattr(add, "run", lambda x, y: ran.append((x, y)))
    with transaction.atomic():
        enqueue(add.s(1, 2))
        assert not ran
    assert ran == [(1, 2)]
    assert not broker.seen


@pytest.mark.parametrize("outer", [False, True], ids=["committed", "in a test that is rolled back"])
@pytest.mark.parametrize("eager", [False, True])
def test_a_test_sees_what_was_enqueued(
    outer: bool, eager: bool, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.conf, "task_always_eager", eager)

    def business() -> list[Any]:
        with capture_enqueued() as tasks, transaction.atomic():
            enqueue(add.s(1, 2))
            with transaction.atomic():
                enqueue(add.s(0, 0))
                transaction.set_rollback(True)
            add.delay_on_commit(3, 4)
        return tasks

    if outer:
        with transaction.atomic():
            tasks = business()
            transaction.set_rollback(True)
    else:
        tasks = business()
    assert [(task.task, task.args) for task in tasks] == [("add", (1, 2)), ("add", (3, 4))]
    assert tasks[0].apply().get() == 3
    assert not broker.seen
    assert not Outbox.objects.exists()


def test_the_fallback_stores_what_no_broker_takes() -> None:
    message = Message("tasks", "default", b"[]", "application/json", "utf-8", {"task": "add"}, {"correlation_id": "1"})
    store_message(message)
    assert [row.task_id for row in ROWS.claim(5, lease=60)] == ["1"]


def run(*arguments: str) -> str:
    """What a command prints."""
    output = StringIO()
    with redirect_stdout(output):
        call_command(*arguments)
    return output.getvalue()


def test_operators_list_release_and_discard() -> None:
    add_rows(2)
    Outbox.objects.update(parked_at=now(), error="Refused: too large")
    assert json.loads(run("outbox", "status")) == {"waiting": 0, "oldest": None, "parked": 2}
    first, second = (line.split()[0] for line in run("outbox", "list").splitlines())
    assert run("outbox", "release", first) == "1 released.\n"
    assert run("outbox", "discard", second, "--yes") == "1 discarded.\n"
    assert json.loads(run("outbox", "--database", "default", "status"))["waiting"] == 1


def test_a_task_in_the_outbox_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (task_id,) = add_rows(1)
    looks = where.looks
    monkeypatch.setattr(where, "looks", lambda *asked: {"outbox": looks(*asked)["outbox"]})  # nothing else runs here
    monkeypatch.setattr("celery._state.get_current_app", lambda: app)
    assert "waits in the outbox since" in run("where", task_id)
    with pytest.raises(SystemExit, match="1"):
        call_command("where", "another")


@pytest.mark.parametrize("arguments", [("relay",), ("dead", "list"), ("where", "1")])
def test_a_project_without_a_celery_application_is_told_so(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = Celery("default", fixups=[], set_as_current=False)
    monkeypatch.setattr("celery._state.get_current_app", lambda: made_up)
    monkeypatch.setattr("celery._state.default_app", made_up)
    with pytest.raises(CommandError, match="Import it in the project's __init__"):
        call_command(*arguments)


def test_the_application_of_a_project_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery._state.get_current_app", lambda: app)
    monkeypatch.setattr("celery._state.default_app", app)  # what Celery does in a Django project
    assert application() is app


def test_a_wrong_address_of_the_metrics_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery._state.get_current_app", lambda: app)
    with pytest.raises(CommandError, match="allowed is HOST:PORT"):
        call_command("relay", "--metrics", "here")


def test_the_deploy_check_says_what_the_doctor_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    careless = Celery("careless", broker="amqp://", backend="rpc://", set_as_current=False)
    monkeypatch.setattr("celery._state.get_current_app", lambda: careless)
    found = {one.id: one for one in run_checks(include_deployment_checks=True) if one.id.startswith("holdfast.")}
    assert found["holdfast.HF101"].obj == "careless"
    assert "confirm_publish" in found["holdfast.HF101"].hint
    assert not [one for one in run_checks() if (one.id or "").startswith("holdfast.")], "without --deploy nothing"


@pytest.fixture
def admin() -> Iterator[Client]:
    """A browser that is logged in."""
    client = Client()
    people = get_user_model().objects
    client.force_login(people.create_superuser("root"))
    yield client
    people.all().delete()


def test_the_admin_site_shows_rows_and_acts_on_parked_ones_alone(admin: Client) -> None:
    ids = add_rows(3)
    parked, waiting, discarded = Outbox.objects.order_by("id")
    Outbox.objects.filter(pk__in=[parked.pk, discarded.pk]).update(parked_at=now())
    page = "/admin/holdfast/outbox/"
    assert all(task_id in admin.get(page).content.decode() for task_id in ids)
    assert "argsrepr" in admin.get(f"{page}{parked.pk}/change/").content.decode()
    assert admin.get(f"{page}add/").status_code == 403
    assert admin.get(f"{page}{parked.pk}/delete/").status_code == 403
    assert admin.post(f"{page}{parked.pk}/change/", {"task": "other"}).status_code == 403

    def act(action: str, *rows: Outbox) -> str:
        form = {"action": action, "_selected_action": [row.pk for row in rows]}
        return admin.post(page, form, follow=True).content.decode()

    assert "1 released; 1 were not parked" in act("release", parked, waiting)
    assert "1 discarded; 1 were not parked" in act("discard", waiting, discarded)
    assert set(Outbox.objects.values_list("pk", flat=True)) == {parked.pk, waiting.pk}


def test_the_admin_site_shows_dead_letters_and_replays_the_chosen_ones(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery._state.get_current_app", lambda: app)
    page = "/admin/holdfast/deadletter/"
    assert "no dead-letter queue" in admin.get(page).content.decode(), "the broker here is none"
    letters = [
        SimpleNamespace(task_id=name, summary=lambda name=name: {"task_id": name, "task": "add"}) for name in "abc"
    ]
    replayed: list[str] = []

    def replay(letter: Any, queue: str | None) -> None:
        if letter.task_id == "c":
            raise dead.NotReplayedError("no queue")
        assert queue is None
        replayed.append(letter.task_id)

    @contextmanager
    def office(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(letters=lambda: iter(letters), replay=replay)

    monkeypatch.setattr(dead, "open_office", office)
    assert admin.get(page).content.decode().count('name="task_id"') == 3
    shown = admin.post(page, {"task_id": ["b", "c"]}, follow=True).content.decode()
    assert replayed == ["b"]
    assert "Not replayed, c stays: no queue" in shown
    assert "1 replayed." in shown
    assert Client().get(page).status_code == 302, "who is not logged in is sent to the login"


@pytest.mark.parametrize(
    ("rights", "see", "act"), [((), 403, 403), (("view",), 200, 403), (("view", "change"), 200, 302)], ids=str
)
def test_a_person_sees_and_replays_dead_letters_with_the_rights_of_the_model(
    rights: tuple[str, ...], see: int, act: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def office(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(letters=lambda: iter([letter]), replay=lambda *_: replayed.append("a"))

    letter = SimpleNamespace(task_id="a", summary=lambda: {"task_id": "a"})
    replayed: list[str] = []
    monkeypatch.setattr("celery._state.get_current_app", lambda: app)
    monkeypatch.setattr(dead, "open_office", office)
    person = get_user_model().objects.create_user("ada", is_staff=True)
    try:
        known = person.user_permissions.model.objects
        person.user_permissions.set(known.filter(codename__in=[f"{name}_deadletter" for name in rights]))
        client, page = Client(), "/admin/holdfast/deadletter/"
        client.force_login(person)
        shown = client.get(page)
        assert (shown.status_code, client.post(page, {"task_id": "a"}).status_code) == (see, act)
        assert ("Replay the chosen ones" in shown.content.decode(), bool(replayed)) == (act == 302, act == 302)
    finally:
        person.delete()


def test_a_process_with_the_login_of_publishers_is_told_which_one_it_needs(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery._state.get_current_app", lambda: app)
    connection = MagicMock()
    connection.transport.driver_type = "amqp"
    connection.channel().queue_declare.side_effect = AccessRefused("<queue> refused for user 'app'")
    monkeypatch.setattr(app, "connection_for_write", lambda _: connection)

    page = admin.get("/admin/holdfast/deadletter/").content.decode()

    assert "None." not in page, "nobody knows"
    assert "&lt;queue&gt; refused for user &#x27;app&#x27;<br>found:" in page
    assert "set HOLDFAST_OPERATOR_URL in the web process" in page
    with pytest.raises(CommandError, match=r"load login-operator\.env after app\.env"):
        call_command("dead", "list")

"""What outbox and inbox promise on each database of Django's; the database is chosen in :mod:`django_project`."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import chord, group
from django.conf import settings
from django.core.management import call_command
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django_project import add, app, total

from holdfast.django import enqueue, inbox, once
from holdfast.django import outbox as django_outbox
from holdfast.django.models import Inbox, Outbox
from holdfast.django.rows import DjangoRows
from holdfast.outbox.metrics import Metrics
from holdfast.outbox.relay import Relay
from holdfast.outbox.rows import PARK_AFTER, Backlog
from holdfast.publisher import Message, NotAcknowledged, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROWS = DjangoRows("default")


@pytest.fixture(scope="module", autouse=True)
def tables() -> None:
    """The tables, by the migrations."""
    for using in connections:
        call_command("migrate", database=using, verbosity=0)


class Broker:
    """Takes messages, or says why not."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.refuses: Callable[[Message], NotAcknowledged | None] = lambda _: None

    def __call__(self, messages: Sequence[Message]) -> list[Exception | None]:
        outcomes: list[Exception | None] = []
        for message in messages:
            outcomes.append(self.refuses(message))
            if outcomes[-1] is None:
                self.seen.append(message)
        return outcomes

    @property
    def ids(self) -> list[str | None]:
        return [message.task_id for message in self.seen]


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """What ``enqueue`` publishes to at once, on a slow machine too; the tables are empty afterwards."""
    broker = Broker()
    monkeypatch.setattr(django_outbox, "LEASE", 600.0)
    django_outbox._doors[app] = django_outbox.Door(send=broker)
    yield broker
    for using in connections:
        for model in (Outbox, Inbox):
            model.objects.using(using).all().delete()
    connections.close_all()


def relay(send: Callable[[Sequence[Message]], list[Exception | None]]) -> Relay:
    return Relay(app, ROWS, send, Metrics(ROWS, patience=60))


def add_rows(count: int) -> list[str]:
    """Enqueue tasks that are left to the relay."""
    django_outbox._doors[app].closed_until = float("inf")
    with transaction.atomic():
        return [enqueue(add.s(n, n)) for n in range(count)]


def make_due() -> None:
    Outbox.objects.update(not_before=None)


class DjangoContract:
    """All of it runs on the default database."""

    def test_a_task_is_published_at_once_after_the_commit_and_not_before(self, broker: Broker) -> None:
        with transaction.atomic():
            task_id = enqueue(add.s(1, 2))
            assert not broker.seen
            assert ROWS.claim(10, lease=60) == [], "no relay takes it meanwhile"
        assert broker.ids == [task_id]
        assert ROWS.backlog() == Backlog(0, None, 0)

    def test_a_rollback_takes_the_task_along(self, broker: Broker) -> None:
        with transaction.atomic():
            enqueue(add.s(1, 2))
            transaction.set_rollback(True)
        with transaction.atomic():
            kept = enqueue(add.s(3, 4))
            with transaction.atomic():
                enqueue(add.s(5, 6))
                transaction.set_rollback(True)
        assert broker.ids == [kept]
        assert not Outbox.objects.exists()

    def test_outside_of_a_transaction_it_is_refused_with_the_reason(self) -> None:
        with pytest.raises(TransactionManagementError, match=r"with transaction\.atomic\(using='default'\)"):
            enqueue(add.s(1, 2))

    def test_a_task_of_a_process_that_dies_after_the_commit_is_the_relays(self, broker: Broker) -> None:
        broker.refuses = lambda _: pytest.fail("nothing is published at once")
        django_outbox._doors[app].closed_until = float("inf")
        with transaction.atomic():
            task_id = enqueue(add.s(1, 2))
        broker.refuses = lambda _: None
        assert relay(broker).once().published == 1
        assert broker.ids == [task_id]

    def test_an_outage_is_left_to_the_relay_and_slows_down_one_request_only(self, broker: Broker) -> None:
        asked: list[Message] = []

        def away(message: Message) -> NotAcknowledged:
            asked.append(message)
            return Unreachable("nobody there")

        broker.refuses = away
        ids = []
        for n in range(3):
            with transaction.atomic():
                ids.append(enqueue(add.s(n, n)))
        assert len(asked) == 1
        assert ROWS.backlog().waiting == 3
        broker.refuses = lambda _: None
        make_due()
        assert relay(broker).once().published == 3
        assert broker.ids == ids

    def test_after_a_long_transaction_a_relay_may_have_the_row_already(
        self, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(django_outbox, "LEASE", 0.0)
        with transaction.atomic():
            task_id = enqueue(add.s(1, 2))
        assert not broker.seen
        assert relay(broker).once().published == 1
        assert broker.ids == [task_id]

    def test_many_tasks_of_one_transaction_are_the_relays(self, broker: Broker) -> None:
        with transaction.atomic():
            ids = [enqueue(add.s(n, n)) for n in range(2 * django_outbox.MANY)]
        assert broker.ids == ids[: django_outbox.MANY]
        assert relay(broker).once().published == django_outbox.MANY
        assert sorted(map(str, broker.ids)) == sorted(ids)

    def test_a_claimed_row_belongs_to_one_relay_until_its_lease_ends(self) -> None:
        add_rows(3)
        assert len(ROWS.claim(2, lease=3600)) == 2
        assert len(ROWS.claim(2, lease=-1)) == 1
        assert len(ROWS.claim(5, lease=3600)) == 1

    def test_two_relays_share_the_rows(self) -> None:
        ids, brokers = add_rows(60), [Broker(), Broker()]

        def work(broker: Broker) -> None:
            one = Relay(app, ROWS, broker, Metrics(ROWS, patience=60), batch=7)
            while one.once().published:
                pass
            connections.close_all()

        threads = [threading.Thread(target=work, args=[broker]) for broker in brokers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        work(brokers[0])
        assert sorted(str(one) for broker in brokers for one in broker.ids) == sorted(ids), "each row once"

    def test_a_refused_row_is_parked_until_an_operator_acts(self, broker: Broker) -> None:
        (bad, good), again = add_rows(2), Refused("too large")
        broker.refuses = lambda m: again if m.task_id == bad else None
        for _ in range(PARK_AFTER):
            make_due()
            relay(broker).once()
        assert broker.ids == [good]
        assert (ROWS.backlog().waiting, ROWS.backlog().parked) == (0, 1)
        (row,) = ROWS.parked()
        assert (row.task_id, row.attempts) == (bad, PARK_AFTER)
        assert "too large" in (row.error or "")
        assert ROWS.find(bad) == row
        assert ROWS.find(good) is None
        make_due()
        assert relay(broker).once().kept == 0
        assert ROWS.release([row.id]) == 1
        assert ROWS.discard([row.id]) == 0, "released, so no longer parked"
        broker.refuses = lambda _: None
        assert relay(broker).once().published == 1

    def test_of_a_group_only_what_is_missing_is_repeated(self, broker: Broker) -> None:
        with transaction.atomic():
            enqueue(group(add.s(n, n) for n in range(3)))
        assert len(broker.seen) == 3
        with transaction.atomic():
            enqueue(chord([add.s(1, 1)], total.s()))
        assert len(broker.seen) == 3, "a chord asks the result store, so it is the relay's"
        assert ROWS.backlog().waiting == 1

    def test_times_come_back_as_they_went(self) -> None:
        add_rows(1)
        instant = datetime(2026, 10, 25, 0, 30, 0, 123456, tzinfo=timezone.utc)  # half past two in Berlin, twice
        for moment in (instant, instant + timedelta(hours=1)):
            Outbox.objects.update(created_at=moment)
            oldest = ROWS.backlog().oldest
            assert oldest is not None
            ambiguous = connections["default"].vendor == "postgresql" and not settings.USE_TZ
            assert abs(oldest - moment) <= timedelta(hours=1 if ambiguous else 0)
            assert Outbox.objects.filter(created_at=moment).count() == 1

    def test_text_of_any_kind_and_length_comes_back(self, broker: Broker) -> None:
        text = "ß🎉'\"\\%" * 20_000
        django_outbox._doors[app].closed_until = float("inf")
        with transaction.atomic():
            enqueue(add.s(text, 1))
        relay(broker).once()
        assert json.loads(broker.seen[0].body)[0] == [text, 1]

    def test_another_database_has_its_own_transaction(self, broker: Broker) -> None:
        with pytest.raises(TransactionManagementError, match="'second'"), transaction.atomic():
            enqueue(add.s(1, 2), using="second")
        with transaction.atomic(using="second"):
            task_id = enqueue(add.s(1, 2), using="second")
            assert Outbox.objects.using("second").count() == 1
        assert broker.ids == [task_id]

    def test_an_effect_happens_once(self) -> None:
        calls: list[int] = []

        def effect() -> Any:
            calls.append(1)
            return {"n": len(calls)}

        assert [once("key", effect), once("key", effect)] == [{"n": 1}, {"n": 1}]
        assert [once(("key", "a"), effect), once(("key", "A"), effect), once("key ", effect)] == [
            {"n": n} for n in (2, 3, 4)
        ]
        assert once("nothing", lambda: None) is None
        assert inbox.prune(timedelta(0)) == 5

    def test_an_effect_that_fails_leaves_nothing(self) -> None:
        def effect() -> None:
            Outbox.objects.create(task_id="x", task="x", workflow="{}")
            raise LookupError

        with transaction.atomic(), pytest.raises(LookupError):
            once("key", effect)
        assert not Outbox.objects.exists()
        assert once("key", lambda: 1) == 1

    def test_a_rollback_around_an_effect_frees_the_key(self) -> None:
        with transaction.atomic():
            once("key", lambda: 1)
            transaction.set_rollback(True)
        assert once("key", lambda: 2) == 2

    def test_concurrent_calls_run_one_effect(self) -> None:
        calls: list[int] = []
        start = threading.Barrier(4)
        results: list[int] = []

        def effect() -> int:
            calls.append(1)
            return len(calls)

        def work() -> None:
            start.wait(30)
            results.append(once("key", effect))
            connections.close_all()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (results, calls) == ([1, 1, 1, 1], [1])

    def test_a_connection_that_the_server_closed_is_opened_anew(self, broker: Broker) -> None:
        add_rows(1)
        connections["default"].connection.close()  # what an idle timeout or a restart leaves
        try:
            relay(broker).once()
        except ROWS.errors:
            relay(broker).once()
        assert len(broker.seen) == 1

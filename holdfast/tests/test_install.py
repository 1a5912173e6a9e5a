"""``install`` mixes in: whatever classes an application brings are kept, or refused by name."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from celery.app.amqp import AMQP
from celery.app.control import Control as CeleryControl
from celery.exceptions import ImproperlyConfigured
from celery.signals import worker_init
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest
from failing import failure

from celery_doctor import examine
from holdfast import consumer, events, publisher, request, routing
from holdfast.app import install
from holdfast.metrics.request import Request
from holdfast.publisher import publisher_of
from holdfast.publisher.durable_amqp import DurableAMQP
from holdfast.request import PutBack


class ContextTask(Task):  # a bare base class, as applications write it
    """Flask's documented pattern, and class attributes of Django's and tenants' kind."""

    tenant_cache_seconds = 7
    calls: list[str] = []  # noqa: RUF012 - shared on purpose

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls.append("call")
        return self.run(*args, **kwargs)

    def delay_on_commit(self, *args: Any) -> str:
        return f"on commit: {args}"

    def apply_async(self, *args: Any, **options: Any) -> Any:
        self.calls.append("apply_async")
        return super().apply_async(*args, **options)

    def retry(self, *args: Any, **options: Any) -> Any:
        self.calls.append("retry")
        return super().retry(*args, **options)


class OwnRequest(CeleryRequest):
    seen: list[str] = []  # noqa: RUF012 - shared on purpose

    def on_failure(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append("failure")
        super().on_failure(*args, **kwargs)


class SlottedRequest(CeleryRequest):
    __slots__ = ("extra",)


class Meta(type):
    pass


class MetaRequest(CeleryRequest, metaclass=Meta):
    pass


class OtherMeta(type):
    pass


class Worker:
    """As much of a worker as its start needs."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.consumer_cls: Any = app.conf.worker_consumer


def make(**options: Any) -> Any:  # the stubs know few of the arguments of ``task``
    """An application whose settings lose nothing, so that only its classes are judged."""
    app = Celery("owner", broker="amqp://", backend="cache+memory://", set_as_current=False, **options)
    app.conf.update(
        task_queues=routing.queues(["default"]),
        task_default_queue="default",
        broker_transport_options={"confirm_publish": True},
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure=False,
        task_acks_on_timeout=False,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_native_delayed_delivery_queue_type="quorum",
    )
    return app


def nothing(*_: Any) -> int:
    return 3


def started(app: Celery) -> None:
    """What a worker of the app does when it starts: see which requests it would make."""
    worker_init.send(sender=Worker(app))


BASES: dict[str, Any] = {
    "task_cls": lambda: make(task_cls=ContextTask).task(nothing, name="t", shared=False),
    "task_cls by name": lambda: make(task_cls=f"{__name__}:ContextTask").task(nothing, name="t", shared=False),
    "base": lambda: make().task(nothing, name="t", shared=False, base=ContextTask),
    "register_task": lambda: make().register_task(type("Old", (ContextTask,), {"name": "t", "run": nothing})()),
}


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("late", [False, True], ids=["install, then task", "task, then install"])
def test_a_task_class_of_the_applications_own_is_kept(kind: str, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if late:
        task = BASES[kind]()
        install(task.app)
    else:
        with monkeypatch.context() as patch:
            made = make
            patch.setitem(globals(), "make", lambda **options: install(made(**options)))
            task = BASES[kind]()
    started(task.app)
    assert issubclass(task.Request, request.Request)
    assert isinstance(task, ContextTask)
    assert task.tenant_cache_seconds == 7
    assert task.delay_on_commit(1) == "on commit: (1,)"
    ContextTask.calls.clear()
    with publisher.durable_amqp.collecting() as messages:
        task.apply_async(countdown=0.5)
    assert task() == 3
    assert ContextTask.calls == ["apply_async", "call"]
    assert [message.headers["task"] for message in messages] == ["t"]


def test_a_class_inside_a_factory_is_kept_each_time_the_factory_runs() -> None:
    def factory(number: int) -> Any:
        class FlaskTask(Task):  # as Flask's documentation writes it
            def __call__(self, *args: object, **kwargs: object) -> object:
                return number, self.run(*args, **kwargs)

        app = make(task_cls=FlaskTask)
        install(app)
        shared_task(name="shared")(nothing)
        return app

    apps = [factory(1), factory(2), factory(3)]
    for app in apps:
        started(app)
    assert [app.tasks["shared"]() for app in apps] == [(1, 3), (2, 3), (3, 3)]
    assert all(issubclass(app.tasks["shared"].Request, request.Request) for app in apps)
    assert len({id(publisher_of(app)) for app in apps}) == 3


def test_every_task_of_an_app_gets_a_request_of_the_layer_and_no_other_app_does() -> None:
    app, other = make(), make()

    class Base(Task):  # as above
        name = "t"
        run = nothing

    install(app)
    app.register_task(Base())
    other.register_task(Base())
    for each in (app, other):
        each.finalize()
        started(each)
    assert all(task.Request is Request for task in app.tasks.values())
    assert {task.Request for task in other.tasks.values()} == {"celery.worker.request:Request"}


@pytest.mark.parametrize("own", [OwnRequest, f"{__name__}:OwnRequest", SlottedRequest, MetaRequest], ids=str)
def test_an_own_request_class_is_combined(own: Any) -> None:
    app: Any = install(make())
    task: Any = app.task(name="t", shared=False, Request=own)(nothing)
    started(app)
    assert issubclass(task.Request, Request)
    assert issubclass(task.Request, own if isinstance(own, type) else OwnRequest)
    once = task.Request
    started(app)
    assert task.Request is once


def test_a_combined_request_runs_the_applications_method_and_the_layers() -> None:
    app: Any = install(make())
    task: Any = app.task(name="t", shared=False, Request=OwnRequest, acks_late=True)(nothing)
    started(app)
    settled: list[str] = []
    message = SimpleNamespace(
        headers={"id": "1", "task": "t"},
        body=b"",
        payload=((), {}, {}),
        content_type="application/json",
        content_encoding="utf-8",
        properties={},
        delivery_info={},
        put_back=lambda: settled.append("put back"),
    )
    OwnRequest.seen.clear()
    task.Request(message, app=app, task=task).on_failure(failure(PutBack("no store")))
    assert OwnRequest.seen == ["failure"]
    assert settled == ["put back"]


def test_a_strategy_of_the_applications_own_is_told(caplog: pytest.LogCaptureFixture) -> None:
    app: Any = install(make())
    app.task(name="usual", shared=False)(nothing)
    app.task(name="own", shared=False, Strategy=f"{__name__}:nothing")(nothing)
    started(app)
    told = [one.args for one in caplog.records if "Strategy" in one.message]
    assert [args[0] for args in told if isinstance(args, tuple)] == ["own"]


class NoRequest:
    pass


OWN = [NoRequest, "nowhere:Request", f"{__name__}:Missing", nothing]


@pytest.mark.parametrize("own", OWN, ids=["another-class", "no-module", "no-attribute", "a-function"])
def test_a_request_class_that_cannot_be_combined_is_refused_by_name(own: Any) -> None:
    app: Any = install(make())
    app.task(name="t", shared=False, Request=own)(nothing)
    with pytest.raises(SystemExit, match=r"holdfast: The Request of task 't' is .*(NoRequest|nowhere|Missing|nothing)"):
        started(app)


def test_classes_that_python_cannot_combine_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ours(AMQP, metaclass=OtherMeta):
        pass

    class Own(AMQP, metaclass=Meta):
        pass

    monkeypatch.setattr(publisher, "DurableAMQP", Ours)
    with pytest.raises(ImproperlyConfigured, match=r"The amqp class of .* is .*Own.*metaclass"):
        install(make(amqp=Own))


def test_an_own_amqp_control_and_consumer_class_is_combined() -> None:
    class OwnAMQP(AMQP):
        pass

    class OwnControl(CeleryControl):
        pass

    class OwnConsumer(CeleryConsumer):
        pass

    app = make(amqp=OwnAMQP, control=OwnControl)
    app.conf.worker_consumer = OwnConsumer
    install(app)
    worker = Worker(app)
    worker_init.send(sender=worker)
    for found, kinds in (
        (type(app.amqp), (OwnAMQP, DurableAMQP)),
        (type(app.control), (OwnControl, events.Control)),
        (worker.consumer_cls, (OwnConsumer, consumer.Consumer)),
    ):
        assert all(issubclass(found, kind) for kind in kinds)


def test_an_app_that_a_factory_made_goes_away() -> None:
    def made() -> weakref.ref[Celery]:
        app = install(make())
        app.task(name="t", shared=False)(nothing)
        started(app)
        publisher_of(app)
        examine(app)
        return weakref.ref(app)

    before = len(worker_init.receivers or ())
    gone = [made() for _ in range(3)]
    gc.collect()
    assert [app() for app in gone] == [None] * 3
    worker_init.send(sender=Worker(make()))  # clears what refers to them
    assert len(worker_init.receivers or ()) <= before


def test_installing_twice_changes_nothing_the_second_time() -> None:
    app = make()
    stored: list[Any] = []
    publisher.install(app, stored.append)
    install(app)
    before = dict(vars(app)), app.amqp.sends
    assert install(app) is app
    publisher.install(app)
    assert (dict(vars(app)), app.amqp.sends) == before
    assert app.amqp.fallback == stored.append


def test_the_doctor_has_nothing_to_say_about_the_retries_of_an_installed_app() -> None:
    def rules(app: Any) -> set[str]:
        app.task(name="t", shared=False)(nothing)
        return {finding.rule.id[:5] for finding in examine(app)}

    assert "HF222" in rules(make())
    assert "HF222" not in rules(install(make(task_cls=ContextTask)))

"""``install`` alone brings the settings, below whatever the application sets, in every form that Celery reads."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task
from celery.exceptions import ImproperlyConfigured
from kombu import Queue
from test_settings import ENVIRONMENT

from holdfast import settings
from holdfast.app import install

if TYPE_CHECKING:
    from collections.abc import Callable

OWN = {
    "broker_url": "amqp://own.example/shop",
    "result_backend": "redis://own.example/1",
    "beat_schedule": {"sweep": {"task": "shop.sweep", "schedule": 60.0}},
    "timezone": "Europe/Berlin",
    "task_routes": {"shop.mail": {"queue": "mail"}},
    "worker_prefetch_multiplier": 2,
}
OLD = {
    "BROKER_URL": OWN["broker_url"],
    "CELERY_RESULT_BACKEND": OWN["result_backend"],
    "CELERYBEAT_SCHEDULE": OWN["beat_schedule"],
    "CELERY_TIMEZONE": OWN["timezone"],
    "CELERY_ROUTES": OWN["task_routes"],
    "CELERYD_PREFETCH_MULTIPLIER": 2,
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def new(**options: Any) -> Celery:
    return Celery("shop", set_as_current=False, **options)


def module(name: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    made = ModuleType(name)
    vars(made).update(values)
    monkeypatch.setitem(sys.modules, name, made)
    return name


def envvar(app: Celery, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("SHOP_SETTINGS", module("shop_settings", OWN, patch))
    app.config_from_envvar("SHOP_SETTINGS")


def one_by_one(app: Celery, _: object) -> None:
    for name, value in OWN.items():
        setattr(app.conf, name, value)


DJANGO = {f"CELERY_{name.upper()}": value for name, value in OWN.items()} | {"TIME_ZONE": "UTC", "DEBUG": True}
FORMS: dict[str, Callable[[Any, pytest.MonkeyPatch], object]] = {
    "module": lambda app, patch: app.config_from_object(module("shop_settings", OWN, patch)),
    "module, forced": lambda app, patch: app.config_from_object(module("shop_settings", OWN, patch), force=True),
    "dict": lambda app, _: app.config_from_object(dict(OWN)),
    "object": lambda app, _: app.config_from_object(SimpleNamespace(**OWN)),
    "namespace": lambda app, patch: app.config_from_object(
        module("django_settings", DJANGO, patch), namespace="CELERY"
    ),
    "variable": envvar,
    "update": lambda app, _: app.conf.update(OWN),
    "one by one": one_by_one,
    "upper case": lambda app, _: app.config_from_object(dict(OLD)),
    "add_defaults": lambda app, _: app.add_defaults(dict(OWN)),
}
ORDERS = ("own, then install", "install, then own", "own, read, then install", "install, read, then own")


def made(order: str, form: Callable[[Any, Any], object], monkeypatch: pytest.MonkeyPatch) -> Celery:
    app = new()
    steps: dict[str, Callable[[], object]] = {
        "own": lambda: form(app, monkeypatch),
        "install": lambda: install(app),
        "read": lambda: app.conf.enable_utc,
    }
    for step in order.replace("then ", "").split(", "):
        steps[step]()
    return app


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.usefixtures("environment")
def test_the_applications_own_settings_stay_and_the_others_are_the_layers(
    form: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = made(order, FORMS[form], monkeypatch).conf

    assert {name: conf[name] for name in OWN} == OWN
    assert (conf.broker_write_url, conf.result_backend) == (OWN["broker_url"], OWN["result_backend"])
    assert conf["timezone"] == "Europe/Berlin"
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, True)
    assert conf.broker_heartbeat == 10
    assert conf.task_default_queue_type == "quorum"
    assert conf.task_protocol == 2, "Celery's own values are below"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.usefixtures("environment")
def test_what_belongs_to_other_servers_is_not_given(form: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = made(order, FORMS[form], monkeypatch).conf

    assert not conf.task_queues
    assert conf.task_default_queue == "celery"
    assert conf.task_create_missing_queues
    assert not conf.result_backend_transport_options
    assert not conf.result_extended
    assert not conf.broker_use_ssl


@pytest.mark.usefixtures("environment")
def test_an_application_that_sets_nothing_gets_all_that_the_module_has() -> None:
    conf = install(new()).conf
    assert {name for name, value in settings.read().items() if conf[name] != value} == set()


@pytest.mark.usefixtures("environment")
def test_the_module_form_is_as_before() -> None:
    app = new()
    app.config_from_object("holdfast.settings")
    install(app)
    assert {name for name, value in settings.read().items() if app.conf[name] != value} == set()


def test_no_environment_is_needed_and_nothing_that_needs_it_is_given() -> None:
    conf = install(new(broker="amqp://own.example", backend="redis://own.example")).conf
    assert (conf.broker_url, conf.result_backend) == ("amqp://own.example", "redis://own.example")
    assert conf.beat_scheduler == "celery.beat:PersistentScheduler"
    assert conf.task_default_queue == "celery"
    assert conf.broker_transport_options["confirm_publish"]
    assert conf.redis_socket_timeout == 5


def test_installing_reads_no_settings() -> None:
    app = install(new())
    app.config_from_object("no_such_module")  # read when it is needed, as Celery does
    assert not vars(app)["configured"]


@pytest.mark.parametrize("broker", ["redis://own.example", "sentinel://own.example", "sqs://", "memory://"])
def test_on_another_broker_nothing_is_set_that_only_rabbitmq_knows(broker: str) -> None:
    conf = install(new(broker=broker)).conf
    assert conf.broker_transport_options == {}
    assert (conf.task_default_exchange_type, conf.task_default_queue_type) == ("direct", "classic")
    assert conf.task_acks_late


@pytest.mark.usefixtures("environment")
def test_celerys_own_variables_are_the_applications_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://own.example")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://own.example/1")
    conf = install(new()).conf
    assert conf.broker_url == "redis://own.example"
    assert not conf.task_queues
    assert conf.broker_transport_options == conf.result_backend_transport_options == {}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"task_queues": [Queue("mail")]}, {"task_default_queue": "celery", "task_routes": None}),
        ({"task_default_queue": "mail"}, {"task_queues": None, "task_default_exchange": "mail"}),
        ({"task_time_limit": 60}, {"task_soft_time_limit": None}),
        ({"task_soft_time_limit": 7200}, {"task_time_limit": None}),
        ({"task_acks_on_failure_or_timeout": True}, {"task_acks_on_failure": None, "task_acks_on_timeout": None}),
        ({"beat_scheduler": "own:Scheduler"}, {"beat_max_loop_interval": 0}),
        ({"redbeat_redis_url": "redis://own.example"}, {"beat_scheduler": "celery.beat:PersistentScheduler"}),
        ({"result_backend": None}, {"result_backend_transport_options": {}}),
    ],
    ids=str,
)
def test_what_an_own_setting_decides_is_not_contradicted(own: dict[str, Any], expected: dict[str, Any]) -> None:
    app = new()
    app.config_from_object(own)
    conf = install(app).conf
    assert {name: conf[name] for name in own} == own
    assert {name: getattr(conf, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"HOLDFAST_BROKER_URL": "http://a/b"}, "HOLDFAST_BROKER_URL: URL 1 of 1"),
        ({"HOLDFAST_SENTINEL_MASTER": ""}, "HOLDFAST_SENTINEL_MASTER is not set"),
        ({"HOLDFAST_TIME_LIMIT": "soon"}, "HOLDFAST_TIME_LIMIT is 'soon'"),
        ({"HOLDFAST_SCHEDULE_URL": "sentinel://own.example/x"}, "HOLDFAST_SCHEDULE_URL: the database of URL 1"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_a_wrong_environment_stops_no_import_and_every_use(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], part: str
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    app = install(new())
    app.conf.update(timezone="Europe/Berlin")
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=part):
            app.send_task("shop.mail")
    assert app.conf["timezone"] == "Europe/Berlin"


@pytest.mark.usefixtures("environment")
def test_an_unexpected_error_stops_every_use_too(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("odd")

    def breaks() -> None:
        raise error

    monkeypatch.setattr(settings, "schedule", breaks)
    app = install(new())
    app.conf.update(timezone="Europe/Berlin")
    for use in (lambda: app.conf.broker_url, lambda: app.send_task("shop.mail")):
        with pytest.raises(ImproperlyConfigured, match="ValueError: odd") as caught:
            use()
        assert caught.value.__cause__ is error


@pytest.mark.usefixtures("environment")
def test_several_applications_of_a_process_have_their_own_settings() -> None:
    first, second, other = install(new(broker="redis://own.example")), install(new()), new()
    second.conf.task_default_queue = "second"
    assert (first.conf.task_default_queue, second.conf.task_default_queue) == ("celery", "second")
    assert first.conf.broker_url == "redis://own.example"
    assert second.conf.broker_url.startswith("amqp://app:")
    assert not other.conf.task_acks_late


@pytest.mark.usefixtures("environment")
def test_an_own_source_that_replaces_another_keeps_the_defaults() -> None:
    app = install(new())
    assert app.conf.task_acks_late
    app.config_from_object({"task_default_queue": "mail"}, force=True)
    assert (app.conf.task_default_queue, app.conf.task_queues) == ("mail", None)
    assert app.conf.task_acks_late


def test_an_own_task_class_is_kept() -> None:
    class FlaskTask(Task):  # type: ignore[type-arg]  # as Flask's documentation writes it
        pass

    app = new(task_cls=FlaskTask)
    app.config_from_object({"task_ignore_result": True})
    install(app)
    task: Any = app.task(name="t", shared=False)(one_by_one)
    assert isinstance(task._get_current_object(), FlaskTask)
    assert (task.ignore_result, task.acks_late) == (True, True)

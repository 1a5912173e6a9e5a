"""A certificate says what an application loses; its two set-ups have its settings and none of its places."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from variant import ENVIRONMENT, ask_app

from drill.report.certificate import Certificate, Row, Run, write
from drill.selftest import yours
from drill.targets import TargetError

FAULTY = """
from celery import Celery
print("an application may print")
app = Celery("shop", broker="{broker}", backend="redis://:secret@store/1")
app.conf.task_acks_late = False
app.conf.task_time_limit = 5
app.conf.task_queues = None
app.conf.task_default_queue = "orders"
app.conf.result_backend_transport_options = {{"master_name": "mine", "retry_policy": {{"timeout": 5.0}}}}
app.conf.worker_prefetch_multiplier = 4
app.conf.task_annotations = {{"*": {{"on_failure": print}}}}
"""
CLEAN = Run(500, 0, 0, "pass", [])
LOSES = Run(400, 44, 0, "fail", ["44 lost"])
BLIND = Run(400, 0, 0, "inconclusive", ["a queue did not run empty"])


def read(folder: Path, broker: str, more: str = "") -> yours.Yours:
    (folder / "shop_app.py").write_text(FAULTY.format(broker=broker) + more)
    return yours.read("shop_app", sys.executable, folder)


def test_what_decides_about_a_loss_is_read_and_no_place_of_the_application(tmp_path: Path) -> None:
    found = read(tmp_path, "amqp://user:secret@broker//")
    assert found.settings == {
        "task_acks_late": False,
        "result_backend_transport_options": {"retry_policy": {"timeout": 5.0}},
        "worker_prefetch_multiplier": 4,
    }
    assert "secret" not in json.dumps(asdict(found))
    assert found.before.settings["task_acks_late"] is False
    assert found.before.stock
    assert found.after.settings["task_acks_late"] is True
    assert found.after.settings["worker_prefetch_multiplier"] == 1
    assert found.changes[:2] == ["import holdfast", "holdfast.install(app)"]
    assert "app.conf.task_acks_late = True" in found.changes
    assert found.changes[2] == (
        "# remove broker_url, result_backend: HOLDFAST_BROKER_URL and HOLDFAST_RESULT_URL name servers"
    )
    assert found.changes[3].startswith("# remove task_default_queue: HOLDFAST_QUEUES")
    assert not any("confirm_publish" in line for line in found.changes), "the library's defaults answer that"


def test_redis_as_the_broker_is_replaced(tmp_path: Path) -> None:
    options = 'app.conf.broker_transport_options = {"visibility_timeout": 100}\n'
    found = read(tmp_path, "redis://broker", options)
    assert found.before.redis_broker
    assert found.before.settings["broker_transport_options"] == {"visibility_timeout": 100}
    assert not found.after.redis_broker
    assert "broker_transport_options" not in found.after.settings
    gone, stays = found.changes[2].split(": ")
    assert gone == "# remove broker_url, result_backend, broker_transport_options"
    assert stays.startswith("HOLDFAST_BROKER_URL (RabbitMQ in place of Redis)")


def test_no_password_of_an_option_is_in_what_is_written(tmp_path: Path) -> None:
    options = """
import socket
SENTINEL = {"sentinel_kwargs": {"password": "secret"}, "password": "secret", "max_retries": 3}
app.conf.broker_transport_options = {**SENTINEL, "socket_settings": {socket.TCP_USER_TIMEOUT: 15000}}
"""
    for broker in ("redis://broker", "amqp://broker"):
        found = read(tmp_path, broker, options)
        assert "secret" not in json.dumps(asdict(found)) + "".join(found.changes)
        assert found.settings["broker_transport_options"] == {"max_retries": 3}
    assert 'app.conf.broker_transport_options = {**app.conf.broker_transport_options, "confirm_publish": True}' in (
        found.changes
    )
    assert found.after.settings["broker_transport_options"]["confirm_publish"] is True
    assert found.after.settings["broker_transport_options"]["max_retries"] == 3


def test_what_all_tasks_decide_by_themselves_counts(tmp_path: Path) -> None:
    task = """
@app.task(acks_late={late}, ignore_result=True)
def one(): ...
"""
    late = read(tmp_path, "amqp://broker", task.format(late=True))
    assert late.settings["task_acks_late"] is True
    assert "task_acks_late" not in late.answers
    early = read(tmp_path, "amqp://broker", task.format(late=False))
    assert early.after.settings["task_acks_late"] is True, "the setting says the same, and is answered"
    another = task.replace("one", "two").format(late=True)
    assert read(tmp_path, "amqp://broker", task.format(late=False) + another).settings["task_acks_late"] is False


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ("app.conf.task_ignore_result = True", "the application stores none"),
        ("app.conf.result_backend = None", "the application stores none"),
        ("app.conf.result_backend = 'rpc://'", "the application stores them in rpc"),
        ("@app.task(ignore_result=True)\ndef one(): ...", "the application stores none"),
    ],
)
def test_results_that_no_fault_of_redis_can_take_do_not_count(tmp_path: Path, more: str, note: str) -> None:
    found = read(tmp_path, "amqp://broker", f"{more}\n")
    assert found.settings["task_ignore_result"] is True
    assert note in found.notes[0]
    assert not found.uses_redis
    assert read(tmp_path, "redis://broker", f"{more}\n").uses_redis


OWN_FORM = """
from kombu.serialization import register
register("signed", repr, eval, "application/x-signed")
app.conf.update(task_serializer="signed", accept_content=["signed", "application/x-signed"], task_compression="bzip2")
"""


def test_an_application_that_has_the_layer_is_run_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "layered_app.py").write_text(
        "from celery import Celery\nimport holdfast\napp = holdfast.install(Celery('layered'))\n"
        "app.conf.worker_max_tasks_per_child = 5\n"
    )
    found = yours.read("layered_app", sys.executable, tmp_path)
    assert found.settings == {"worker_max_tasks_per_child": 5}
    assert found.changes == []
    assert found.before == found.after
    assert found.before.own
    assert found.uses_redis
    (tmp_path / "layered_app.py").open("a").write("app.conf.task_acks_late = False\n")
    found = yours.read("layered_app", sys.executable, tmp_path)
    assert found.changes == ["app.conf.task_acks_late = True"]
    assert (found.before.settings["task_acks_late"], found.after.settings["task_acks_late"]) == (False, True)


def test_a_form_that_only_the_application_knows_is_named_and_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, "amqp://broker", OWN_FORM)
    assert found.settings["accept_content"] == ["application/x-signed", "json"]
    assert found.settings["task_compression"] == "bzip2"
    assert "task_serializer" not in found.settings
    assert found.notes == ["task_serializer is signed, which only the application knows: the runs have Celery's."]


def test_the_two_set_ups_are_found_by_name_in_the_processes_of_a_run(tmp_path: Path) -> None:
    found = read(tmp_path, "amqp://broker//")
    (tmp_path / "application.json").write_text(json.dumps(asdict(found)))
    assert yours.set_ups({}) == {}
    assert yours.set_ups({yours.FILE: str(tmp_path / "application.json")}) == {
        "yours": found.before,
        "changed": found.after,
    }


def test_the_applications_of_the_two_set_ups_are_stock_and_the_whole_layer(tmp_path: Path) -> None:
    file = tmp_path / "application.json"
    file.write_text(json.dumps(asdict(read(tmp_path, "amqp://broker//"))))
    environment = ENVIRONMENT | {yours.FILE: str(file)}
    options = "app.conf.result_backend_transport_options"
    values = f"[type(app.amqp).__name__, app.conf.task_acks_late, {options}['master_name'], {options}['retry_policy']]"
    assert ask_app("yours", values, environment) == ["AMQP", False, "results", {"timeout": 5.0}]
    assert ask_app("changed", values, environment) == ["DurableAMQP", True, "results", {"timeout": 5.0}]


@pytest.mark.parametrize(
    ("broker", "more", "words"),
    [
        ("amqp://broker//", "import no_such_module", "no_such_module"),
        ("sqs://", "", "The broker of shop_app is sqs"),
        ("amqp://broker//", "app.conf.task_always_eager = True", "task_always_eager"),
    ],
)
def test_what_cannot_be_certified_is_refused(tmp_path: Path, broker: str, more: str, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        read(tmp_path, broker, more)


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="--python"):
        yours.read("shop", str(tmp_path / "python"), tmp_path)


def test_a_python_is_named_from_where_the_command_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop/src").mkdir(parents=True)
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "shop/src/shop_app.py").write_text(FAULTY.format(broker="amqp://broker//"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # a link has no packages of its own
    assert yours.read("shop_app", "./python", Path("shop/src")).broker == "amqp"


@pytest.mark.parametrize(
    ("before", "after", "code", "words"),
    [
        (LOSES, CLEAN, 1, "shop loses 44 tasks of 400 with the fault 'a broker dies'; with 2 changed lines 0"),
        (CLEAN, CLEAN, 0, "shop lost nothing in 1 fault"),
        (BLIND, CLEAN, 2, "shop: a run of its own settings proves nothing"),
        (replace(BLIND, lost=400), CLEAN, 2, "shop: a run of its own settings proves nothing"),
        (LOSES, BLIND, 2, "with 2 changed lines a run that proves nothing"),
        (LOSES, LOSES, 2, "with 2 changed lines 44"),
    ],
)
def test_the_exit_code_is_that_of_the_worst(before: Run, after: Run, code: int, words: str) -> None:
    certificate = Certificate("shop", "5.7.0", [Row("f", "a broker dies", before, after)], ["one", "two"])
    assert certificate.code == code
    assert words in certificate.summary


def test_what_is_written_says_the_same_in_each_form(tmp_path: Path) -> None:
    rows = [Row("f", "a <broker> dies", LOSES, CLEAN), Row("g", "another", CLEAN, CLEAN)]
    write(Certificate("shop:app", "5.7.0", rows, ["holdfast.install(app)"]), tmp_path)
    content: dict[str, Any] = json.loads((tmp_path / "certificate.json").read_text())
    assert content["exit_code"] == 1
    assert content["rows"][0]["before"]["lost"] == 44
    (result,) = json.loads((tmp_path / "certificate.sarif").read_text())["runs"][0]["results"]
    assert result["ruleId"] == "f"
    assert "44 tasks of 400" in result["message"]["text"]
    page = (tmp_path / "certificate.html").read_text()
    assert "a &lt;broker&gt; dies" in page
    assert "44 tasks of 400" in page


def test_tasks_that_the_changes_send_to_the_dead_letter_queue_are_no_success() -> None:
    dead = replace(CLEAN, verdict="fail", innocent_dead=400)
    assert str(dead) == "400 tasks dead-lettered of 500"
    assert Certificate("a", "5", [Row("f", "x", LOSES, dead)], []).code == 2
    counts = {"acknowledged": 500, "lost": 0, "result_lost": 0, "innocent_dead": 400}
    assert Run.of({"counts": counts, "verdict": "fail", "reasons": []}) == dead


def test_what_a_run_that_was_cut_short_misses_is_no_loss() -> None:
    assert str(replace(BLIND, lost=400)) == "inconclusive: a queue did not run empty"


def test_results_that_are_lost_count() -> None:
    lost = replace(CLEAN, result_lost=3, verdict="fail")
    assert str(lost) == "3 results of 500"
    assert Certificate("a", "5", [Row("f", "x", lost, CLEAN)], []).code == 1

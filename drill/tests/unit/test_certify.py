"""A certificate says what an application loses; its two set-ups have its settings and none of its places."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from variant import ENVIRONMENT, ask_app

from drill.report.certificate import Certificate, Row, Run, write
from drill.selftest import yours
from drill.targets import TargetError

if TYPE_CHECKING:
    from pathlib import Path

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
    assert "task_acks_late = True" in found.changes
    assert not any("confirm_publish" in line for line in found.changes), "the library's defaults answer that"


def test_redis_as_the_broker_is_replaced(tmp_path: Path) -> None:
    options = 'app.conf.broker_transport_options = {"visibility_timeout": 100}\n'
    found = read(tmp_path, "redis://broker", options)
    assert found.before.redis_broker
    assert found.before.settings["broker_transport_options"] == {"visibility_timeout": 100}
    assert not found.after.redis_broker
    assert "broker_transport_options" not in found.after.settings
    assert "RabbitMQ in place of Redis" in found.changes[0]


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


@pytest.mark.parametrize(
    ("before", "after", "code", "words"),
    [
        (LOSES, CLEAN, 1, "shop loses 44 tasks of 400 with the fault 'a broker dies'; with 2 changed lines 0"),
        (CLEAN, CLEAN, 0, "shop lost nothing in 1 faults"),
        (BLIND, CLEAN, 2, "shop lost nothing"),
        (LOSES, BLIND, 2, "shop loses 44"),
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


def test_results_that_are_lost_count() -> None:
    lost = replace(CLEAN, result_lost=3, verdict="fail")
    assert str(lost) == "3 results of 500"
    assert Certificate("a", "5", [Row("f", "x", lost, CLEAN)], []).code == 1

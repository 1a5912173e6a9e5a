"""A mutant changes what it says, and nothing when it is a control."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import pytest
from variant import ENVIRONMENT, ask_app

from drill import ROOT, ledger
from drill.faults import REGISTRY
from drill.judge.history import build
from drill.load import sequence
from drill.selftest import mutants, virtual_host
from drill.selftest.spare_servers import SpareServers
from drill.targets import TargetError

if TYPE_CHECKING:
    from pathlib import Path

TOPOLOGY = json.loads((ROOT / "compose/config/rabbitmq/definitions/10-topology.json").read_text())


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_faults_and_kinds_of_tasks_exist(name: str) -> None:
    mutant = mutants.MUTANTS[name]
    assert set(mutant.faults) <= REGISTRY.keys()
    next(sequence.batches("r.p", 1, mutant.mix, {"single": 1}))


@pytest.mark.parametrize("name", [name for name, mutant in mutants.MUTANTS.items() if mutant.topology])
def test_a_change_of_the_definitions_changes_them(name: str) -> None:
    change = mutants.MUTANTS[name].topology
    changed = copy.deepcopy(TOPOLOGY)
    assert change
    change(changed)
    assert changed != TOPOLOGY


def test_every_url_gets_the_drills_virtual_host() -> None:
    environment = dict(ENVIRONMENT)
    virtual_host.use_vhost(environment)
    assert environment["HOLDFAST_BROKER_URL"] == "amqp://app:pw@10.0.0.1:5672/drill,amqp://app:pw@10.0.0.2:5672/drill"


def test_every_edit_of_the_redis_files_changes_them(tmp_path: Path) -> None:
    secret, shared = ROOT / "compose/config/secret", ROOT / "compose/config/rabbitmq/rabbitmq.conf"
    files = {
        f"{path.parent.name}/{path.name}": path.read_text().replace("${HOLDFAST_NET}", "10.0.0")
        for path in sorted(secret.glob("*/*.conf"))
    } | {shared.name: shared.read_text(), "redis-start": (ROOT / "compose/start/redis").read_text()}
    for name, mutant in {**mutants.MUTANTS, "small-disk": mutants.SMALL_DISK}.items():
        if mutant.spare:
            SpareServers(tmp_path / name, "10.0.0", mutant.spare, {}).write_files(files)
            assert any((tmp_path / name / one).read_text() != text for one, text in files.items())
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o700, "the copies hold passwords"
    wrong = mutants.Spare(("redis",), (("^nothing", ""),))
    with pytest.raises(TargetError, match="matches nothing"):
        SpareServers(tmp_path / "wrong", "10.0.0", wrong, {}).write_files(files)


def test_a_control_has_all_safeguards_and_a_mutant_lacks_one() -> None:
    layer = "[type(app.amqp).__name__, app.conf.worker_consumer, app.conf.task_acks_late]"
    assert ask_app("control", layer) == ["DurableAMQP", "holdfast.consumer:Consumer", True]
    assert ask_app("late-ack", layer) == ["DurableAMQP", "holdfast.consumer:Consumer", False]
    assert ask_app("confirms", layer) == ["AMQP", "holdfast.consumer:Consumer", True]


def test_stock_is_celery_alone() -> None:
    values = ask_app("stock", "[type(app.amqp).__name__, app.conf.worker_consumer, app.conf.task_acks_late]")
    assert values == ["AMQP", "celery.worker.consumer:Consumer", False]


def test_redis_as_the_broker_hands_out_again_what_a_dead_worker_held_before_the_run_is_judged() -> None:
    environment = dict(ENVIRONMENT)
    virtual_host.use_redis(environment, {"HOLDFAST_BROKER_URL": environment["HOLDFAST_RESULT_URL"]})
    assert environment["HOLDFAST_BROKER_URL"].endswith("/2")
    limit = ask_app("redis-broker", "app.conf.broker_transport_options['visibility_timeout']", environment)
    assert limit == 30


def test_a_writer_that_drops_or_buffers_records_is_noticed(tmp_path: Path) -> None:
    dropping = mutants.DroppingWriter(tmp_path / "a.ledger", "r", "test")
    buffered = mutants.BufferedWriter(tmp_path / "b.ledger", "r", "test")  # killed: never closed
    for writer in (dropping, buffered):
        for number in range(110):  # a drill without faults writes no more
            writer.append("attempt", id=f"r.{number}", task="short", path="single")
    unchecked = build(ledger.read_all(tmp_path, "r"), "r").unchecked
    assert [text.partition(":")[0] for text in unchecked] == ["a.ledger", "b.ledger"]

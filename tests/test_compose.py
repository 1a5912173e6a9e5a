"""The compose files: who may know what, every variation valid, and one home for each number."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose/compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
ALONE = {"init", "passwords"}

sys.path.insert(0, str(ROOT / "compose/init"))
import init  # noqa: E402 - lies where its image takes it from


def mounts(service: str) -> dict[str, str]:
    """Return the volumes of a service: source -> the rest."""
    return dict(one.split(":", 1) for one in SERVICES[service].get("volumes", []))


def test_every_service_waits_for_init_and_is_restarted_when_init_is_another_one() -> None:
    for name in SERVICES.keys() - ALONE - {"operator"}:  # a command for a stack that runs
        assert SERVICES[name]["depends_on"]["init"] == {"condition": "service_completed_successfully", "restart": True}


def test_a_service_sees_one_role_read_only_and_never_the_passwords() -> None:
    for name in SERVICES.keys() - ALONE:
        made = {source: rest for source, rest in mounts(name).items() if source.startswith("role-")}
        assert len(made) <= 1, name
        assert set(made.values()) <= {"/run/holdfast:ro"}, name
        assert "passwords" not in mounts(name), name


def test_init_fills_each_role_that_is_mounted_and_no_other() -> None:
    roles = {source.removeprefix("role-") for name in SERVICES.keys() - ALONE for source in mounts(name)
             if source.startswith("role-")}  # fmt: skip
    assert roles == init.KNOWN.keys()
    for name in ALONE:
        assert {source.removeprefix("role-") for source in mounts(name) if source.startswith("role-")} == roles


def test_every_template_belongs_to_a_role() -> None:
    folder = ROOT / "compose/config/secret"
    named = {one for role in init.KNOWN.values() for one in role.files} | {
        one for files in init.BROKERS.values() for one in files
    }
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name != "redis-exporter.env":  # hosts have it, the container a password file
            assert named & {name, name.partition("/")[0]}, f"{name} is filled for nobody"


def test_no_service_has_a_secret_in_its_environment() -> None:
    assert "env_file" not in json.dumps(COMPOSE)
    assert not re.findall(r"(?i)password:|secret:|token:", json.dumps(COMPOSE["services"]))


def test_every_service_runs_without_capabilities_that_it_does_not_need() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["pids_limit"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


# Who may write into its own root, and why
WRITABLE = {"grafana": "no test can start it where no registry answers"}


def test_the_root_of_every_service_is_read_only_and_its_places_in_memory_have_a_size() -> None:
    assert {name for name, service in SERVICES.items() if not service["read_only"]} == WRITABLE.keys()
    for name in SERVICES.keys() - ALONE:
        for place in SERVICES[name]["tmpfs"]:
            assert "size=" in place, f"{name}: {place} may take half of the machine's memory"


def test_the_probe_of_a_worker_looks_where_supervisor_tells_its_programs_to_write() -> None:
    written = re.findall(r'HOLDFAST_PULSE_DIR="(.+)"', (ROOT / "compose/config/workers/supervisord.conf").read_text())
    for name in ("worker1", "worker2"):
        assert [SERVICES[name]["environment"]["HOLDFAST_PULSE_DIR"]] == written


def test_the_ports_of_the_brokers_are_those_of_the_laptops_environment() -> None:
    found = {}
    for node in ("rabbit1", "rabbit2", "rabbit3"):
        number = SERVICES[node]["networks"]["holdfast"]["ipv4_address"].rpartition(".")[2]
        for port in SERVICES[node]["ports"]:
            if port.endswith(":5672"):
                found[number] = int(port.split(":")[-2])
    assert found == init.AMQP


def test_the_pages_of_the_monitoring_ask_for_a_login_and_no_program_types_it() -> None:
    """The login is in files of the server's own role; a command line would show it to everybody."""
    for server, tool in (("prometheus", "promtool"), ("alertmanager", "amtool-http")):
        assert "--web.config.file=/run/holdfast/web.yml" in SERVICES[server]["command"], server
        assert f"--http.config.file=/run/holdfast/{tool}.yml" in SERVICES[server]["healthcheck"]["test"], server
        page = yaml.safe_load((ROOT / f"compose/config/secret/{server}/web.yml").read_text())
        assert page == {"basic_auth_users": {"admin": f"${{{server.upper()}_PASSWORD_BCRYPT}}"}}


def test_all_ports_are_opened_at_one_address_that_can_be_set() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("${HOLDFAST_ADDRESS:-127.0.0.1}:"), port


def test_the_laptop_gets_the_published_ports_and_nothing_that_only_containers_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOLDFAST_NET", "10.1.2")
    monkeypatch.setenv("HOLDFAST_ADDRESS", "127.0.0.9")
    urls = ",".join(f"amqp://app:pw@10.1.2.{number}:5672/holdfast" for number in init.AMQP)
    only_there = dict.fromkeys(
        ("HOLDFAST_APP", "HOLDFAST_IMPORTS", "HOLDFAST_OUTBOX_URL", "WEBHOOKS_DATABASE_URL"), "x"
    )
    found = init.laptop({"HOLDFAST_BROKER_URL": urls} | only_there)
    assert found == {
        "HOLDFAST_BROKER_URL": ",".join(f"amqp://app:pw@127.0.0.9:{port}/holdfast" for port in init.AMQP.values())
    }


@pytest.mark.parametrize(("words", "role"), [([], "app"), (["worker"], "worker"), (["beat"], "beat")])
def test_a_worker_and_a_beat_on_the_laptop_get_their_own_logins(
    words: list[str], role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {one: {"HOLDFAST_BROKER_URL": "amqp://x", "HOLDFAST_RESULT_URL": one} for one in ("app", "worker", "beat")}
    monkeypatch.setattr(init, "show", lambda: {"environment": made})
    monkeypatch.setattr(sys, "argv", ["init", "passwords", "--laptop", *words])
    init.main()
    assert f"HOLDFAST_RESULT_URL={role}" in capsys.readouterr().out.splitlines()


def config(**environment: str) -> subprocess.CompletedProcess[str]:
    """Ask Compose what it makes of the file; needs no engine."""
    return subprocess.run(
        ["docker", "compose", "--profile", "grafana", "config", "--format", "json"],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.stack  # needs Compose
def test_redis_as_the_broker_leaves_the_brokers_out_and_another_name_is_refused() -> None:
    def services(broker: str) -> set[str]:
        return set(json.loads(config(BROKER=broker).stdout)["services"])

    assert services("rabbitmq") - services("redis") == {"rabbit1", "rabbit2", "rabbit3"}
    refused = config(BROKER="kafka")
    assert refused.returncode != 0
    assert "broker-kafka" in refused.stderr


@pytest.mark.stack  # needs Compose
def test_valkey_is_another_image_with_data_of_its_own_and_another_name_is_refused() -> None:
    redis, valkey = (json.loads(config(RESULTS=name).stdout)["services"] for name in ("redis", "valkey"))
    other = {name for name in redis if redis[name] != valkey[name]}
    assert other == {f"{tier}{number}" for tier in ("redis", "sentinel") for number in (1, 2, 3)}
    for name in other:
        assert {key for key in redis[name] if redis[name][key] != valkey[name][key]} == {"image", "volumes"}
        assert valkey[name]["image"].startswith("valkey/valkey:")
        data = [
            next(one["source"] for one in its[name]["volumes"] if one["target"] == "/data") for its in (redis, valkey)
        ]
        assert data == [name, name.replace("redis", "valkey").replace("sentinel", "valkey-sentinel")]
    refused = config(RESULTS="memcached")
    assert refused.returncode != 0
    assert "results-memcached" in refused.stderr

"""Services of others in place of RabbitMQ and Redis hosts: what is refused before any change, and what is rendered."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from holdfast.environment import read_file

from .commands import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXAMPLE = ROOT / "ansible/inventories/example"
faults: Callable[..., list[str]] = runpy.run_path(str(ROOT / "ansible/plugins/filter/inventory.py"))["inventory_faults"]
AUTHORITY = "/etc/ssl/certs/ca-certificates.crt"
PEM = __file__  # it has -----BEGIN CERTIFICATE----- in it, which is what the inventory is asked for
BROKER = {
    "urls": ["amqps://mq.example.com:5671"], "api": "https://mq.example.com", "user": "owner", "ca_file": PEM,
}  # fmt: skip
STORE = {"url": "rediss://cache.example.com:6380/0", "ca_file": PEM}
SERVICES: dict[str, Any] = {
    "rabbitmq_external": BROKER, "rabbitmq_external_password": "br%k r",
    "redis_external": STORE, "redis_external_password": "st@re",
}  # fmt: skip
WITHOUT: dict[str, list[str]] = {"rabbitmq": [], "redis": [], "sentinel": []}


def said(variables: dict[str, Any], groups: dict[str, list[str]] | None = None, needs: list[str] | None = None) -> str:
    """Return the faults of the example with services in place of its servers."""
    hosts = yaml.safe_load((EXAMPLE / "hosts.yml").read_text())["all"]
    common = yaml.safe_load((EXAMPLE / "group_vars/all/main.yml").read_text())
    found = {name: list(group.get("hosts") or ()) for name, group in hosts["children"].items()}
    found |= {"app": found["workers"], "all": list(hosts["hosts"])} | (WITHOUT if groups is None else groups)
    hostvars = {name: {**common, **values, **SERVICES, **variables} for name, values in hosts["hosts"].items()}
    return "\n".join(faults(hostvars, found, needs=needs))


def test_two_services_need_no_host_of_ours() -> None:
    assert said({}) == ""


def test_one_service_leaves_the_other_to_our_hosts() -> None:
    nodes = ["node1", "node2", "node3"]
    assert said({"redis_external": {}}, {"rabbitmq": [], "redis": nodes, "sentinel": nodes}) == ""
    assert said({"rabbitmq_external": {}}, {"rabbitmq": nodes, "redis": [], "sentinel": []}) == ""


def test_neither_a_service_nor_a_host_is_refused() -> None:
    found = said({"rabbitmq_external": {}})
    assert "no host in the group rabbitmq" in found
    assert "a service of another's is rabbitmq_external" in found


@pytest.mark.parametrize(("group", "service"), [("rabbitmq", "rabbitmq"), ("redis", "redis"), ("sentinel", "redis")])
def test_a_service_and_hosts_are_refused(group: str, service: str) -> None:
    found = said({}, WITHOUT | {group: ["node1"]})
    assert f"{service}_external, and 1 host(s) in the group {group}" in found
    assert f"next:    take the hosts out of the group {group}" in found


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"rabbitmq_external": "amqps://mq.example.com"}, "rabbitmq_external is amqps"),
        ({"rabbitmq_external": {**BROKER, "vhost": "x"}}, "rabbitmq_external with vhost"),
        ({"rabbitmq_external": {"urls": BROKER["urls"]}}, "rabbitmq_external without api, ca_file, user"),
        ({"rabbitmq_external": {**BROKER, "urls": "amqps://mq.example.com"}}, "rabbitmq_external.urls is not a list"),
        ({"rabbitmq_external": {**BROKER, "urls": ["amqp://mq.example.com"]}}, "addresses over TLS"),
        ({"rabbitmq_external": {**BROKER, "urls": ["amqps://me:secret@mq.example.com"]}}, "addresses over TLS"),
        ({"rabbitmq_external": {**BROKER, "api": "http://mq.example.com"}}, "rabbitmq_external.api is not"),
        (
            {"rabbitmq_external": {**BROKER, "ca_file": "/no/such.pem"}},
            "no certificate in /no/such.pem on this controller",
        ),
        ({"redis_external": {**STORE, "ca_file": "/dev/null"}}, "no certificate in /dev/null"),
        ({"rabbitmq_external_password": ""}, "no rabbitmq_external_password"),
        ({"redis_external": {**STORE, "url": "redis://cache.example.com/0"}}, "not the address of a Redis over TLS"),
        ({"redis_external": {**STORE, "url": "postgresql://db.example.com/0"}}, "PostgreSQL for results, are not"),
        ({"redis_external": {**STORE, "cluster": True}}, "redis_external with cluster"),
        ({"redis_external": {**STORE, "url": "rediss://me:secret@cache.example.com/0"}}, "without a login"),
        ({"redis_external_password": ""}, "no redis_external_password"),
        ({"tls_enabled": False}, "rabbitmq_external with tls_enabled: false"),
    ],
)
def test_a_description_that_cannot_work_is_refused_with_the_remedy(changes: dict[str, Any], part: str) -> None:
    found = said(changes)
    assert part in found
    assert "next:" in found
    assert "secret" not in found


def test_a_playbook_that_needs_the_servers_is_refused() -> None:
    assert said({}, needs=[]) == ""
    found = said({}, needs=["rabbitmq"])
    assert "rabbitmq_external, whose servers this playbook cannot reach" in found
    assert "redis_external, whose" not in found


def test_the_playbooks_that_need_them_say_so() -> None:
    need = set()
    for path in (ROOT / "ansible/playbooks").glob("*.yml"):
        (first, *_) = yaml.safe_load(path.read_text())
        if first.get("vars", {}).get("check_needs"):
            need.add(path.stem)
    assert need == {
        "backup", "drill", "failover_redis", "issue_client", "replace_node", "restore", "rolling_restart",
        "rotate_secrets", "upgrade_rabbitmq",
    }  # fmt: skip


def rendered(folder: Path, more: dict[str, Any], groups: tuple[str, ...]) -> Path:
    """Render the example with services in place of the groups; return the folder of its files."""
    shutil.copytree(EXAMPLE, folder / "mine")
    hosts = yaml.safe_load((EXAMPLE / "hosts.yml").read_text())
    hosts["all"]["children"] |= {name: {} for name in groups}
    (folder / "mine/hosts.yml").write_text(yaml.safe_dump(hosts))
    (folder / "mine/group_vars/all/services.yml").write_text(yaml.safe_dump(more))
    done = subprocess.run(
        [ROOT / "scripts/render"], env=os.environ | {"INVENTORY": str(folder / "mine"), "OUT": str(folder / "out")},
        check=False, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


@pytest.mark.slow
def test_both_services_are_rendered_for_every_program(tmp_path: Path) -> None:
    out = rendered(tmp_path, SERVICES, ("rabbitmq", "redis", "sentinel"))
    app = read_file(out / "secret/app.env")
    assert app["HOLDFAST_BROKER_URL"].startswith("amqps://app:")
    assert app["HOLDFAST_BROKER_URL"].endswith("@mq.example.com:5671/holdfast")
    assert app["HOLDFAST_RESULT_URL"] == "rediss://default:st%40re@cache.example.com:6380/0"
    assert (app["HOLDFAST_RESULT_REPLICAS"], app["HOLDFAST_RESULT_FSYNC"]) == ("1", "yes")
    assert app["HOLDFAST_TLS_CA"] == "/etc/holdfast/tls/services.pem"
    assert not {name for name in app if "SENTINEL" in name} | ({"HOLDFAST_TLS_CERT"} & set(app))
    worker = read_file(out / "secret/login-worker.env")
    assert worker["HOLDFAST_BROKER_URL"].startswith("amqps://worker:")
    assert worker["HOLDFAST_RESULT_URL"] == app["HOLDFAST_RESULT_URL"]
    beat = read_file(out / "secret/login-beat.env")
    assert beat["HOLDFAST_SCHEDULE_URL"] == app["HOLDFAST_RESULT_URL"]
    assert read_file(out / "secret/login-operator.env")["HOLDFAST_BROKER_URL"].startswith("amqps://operator:")
    flower = read_file(out / "secret/flower.env")
    assert flower["HOLDFAST_BROKER_URL"].startswith("amqps://flower:")
    assert flower["HOLDFAST_RESULT_URL"] == STORE["url"]
    jobs = {
        one["job_name"]: one
        for one in yaml.safe_load((out / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    }
    assert jobs["redis"]["static_configs"] == [{"targets": ["cache.example.com:6380"]}]
    assert not jobs["sentinel"]["static_configs"][0]["targets"] + jobs["rabbitmq"]["static_configs"][0]["targets"]
    assert '"rediss://default@cache.example.com:6380": "st@re"' in (out / "secret/redis-exporter.json").read_text()
    assert not (out / "rabbitmq").exists()
    assert not (out / "kubernetes/workers.yaml").exists(), "its brokers would be those of nobody"
    assert not (out / "secret/redis").exists()


@pytest.mark.slow
def test_one_login_of_the_service_is_every_roles(tmp_path: Path) -> None:
    """Redis is ours here: its Sentinels are as ever, and clients show the certificate that it asks for."""
    out = rendered(
        tmp_path,
        {
            "rabbitmq_external": {**BROKER, "urls": ["amqps://mq.example.com:5671/"], "users": False},
            "rabbitmq_external_password": "br%k r",
        },
        ("rabbitmq",),
    )
    login = "amqps://owner:br%25k%20r@mq.example.com:5671/holdfast"
    for file in ("app.env", "login-worker.env", "login-operator.env", "flower.env"):
        assert read_file(out / "secret" / file)["HOLDFAST_BROKER_URL"] == login, file
    app = read_file(out / "secret/app.env")
    assert app["HOLDFAST_RESULT_URL"].count("sentinel://") == 3
    assert app["HOLDFAST_TLS_CERT"] == "/etc/holdfast/tls/client.pem"
    assert app["HOLDFAST_TLS_CA"] == "/etc/holdfast/tls/services.pem"

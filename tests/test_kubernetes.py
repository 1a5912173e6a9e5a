"""The manifests for Kubernetes have the fields that the published definitions allow, and the settings of the hosts."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = yaml.safe_load((ROOT / "tests/kubernetes.yml").read_text())
MANIFESTS = ("rabbitmq.yaml", "workers.yaml")
SHARED = yaml.safe_load((ROOT / "ansible/roles/shared/defaults/main.yml").read_text())
WORKERS = yaml.safe_load((ROOT / "ansible/roles/workers/defaults/main.yml").read_text())
EXAMPLE = yaml.safe_load((ROOT / "ansible/inventories/example/group_vars/all/main.yml").read_text())


def manifests() -> list[dict[str, Any]]:
    """Return every object of the committed files."""
    return [item for name in MANIFESTS for item in yaml.safe_load_all((ROOT / "kubernetes" / name).read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    """Return the objects of one kind."""
    return [item for item in manifests() if item["kind"] == kind]


def faults(item: dict[str, Any]) -> list[str]:
    """Return what the schema of its kind has against an object."""
    schema = SCHEMAS["kinds"].get(item["kind"])
    if schema is None:
        return [f"no schema of {item['kind']}"]
    checker = Draft202012Validator(schema | {"$defs": SCHEMAS["$defs"]})
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in checker.iter_errors(item)]


def test_every_object_has_the_fields_that_its_definition_allows() -> None:
    assert {item["kind"]: faults(item) for item in manifests()} == {kind: [] for kind in SCHEMAS["kinds"]}
    assert all(not faults(item) for item in manifests())


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RabbitmqCluster", ("spec", "replica"), 3),
        ("RabbitmqCluster", ("spec", "replicas"), "3"),
        ("RabbitmqCluster", ("spec", "tls", "disableNonTlsListeners"), True),
        ("RabbitmqCluster", ("spec", "rabbitmq", "additionalConfig"), {"heartbeat": 30}),
        ("RabbitmqCluster", ("apiVersion",), "rabbitmq.com/v1"),
        ("PodDisruptionBudget", ("spec", "minavailable"), 2),
        ("Deployment", ("spec", "template", "spec", "terminationGracePeriod"), 35),
        ("TriggerAuthentication", ("spec", "secretTargetRef", 0, "parameter"), "hostname"),
        ("ScaledObject", ("spec", "minReplicas"), 2),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "value"), 40),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "queue"), "default"),
        ("Secret", ("kind",), "Secret"),
    ],
)
def test_a_wrong_field_is_refused(kind: str, path: tuple[str | int, ...], value: object) -> None:
    """The control: each of these is a mistake that a cluster would refuse or, worse, drop silently."""
    item = deepcopy((of_kind(kind) or manifests())[0])
    inner: Any = item
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert len(faults(item)) == 1


def settings(text: str) -> dict[str, str]:
    """Return the settings of a ``rabbitmq.conf``."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return dict(re.split(r" = ", line, maxsplit=1) for line in lines)


def test_the_brokers_have_the_settings_of_those_on_hosts() -> None:
    """But for what the operator says by itself: the cluster's name and its nodes."""
    there = settings(of_kind("RabbitmqCluster")[0]["spec"]["rabbitmq"]["additionalConfig"])
    compose = settings((ROOT / "compose/config/rabbitmq/rabbitmq.conf").read_text())
    of_the_inventory = {"vm_memory_high_watermark.absolute", "disk_free_limit.absolute", "raft.wal_max_size_bytes"}
    of_the_operator = {name for name in compose if name.startswith("cluster_")}
    plaintext = {"listeners.tcp.default", "management.tcp.port", "prometheus.tcp.port"}
    assert of_the_operator
    assert not [name for name in there if name.startswith("cluster_")]
    assert compose.items() - there.items() == {
        (name, compose[name]) for name in of_the_inventory | of_the_operator | plaintext
    }
    assert there["vm_memory_high_watermark.absolute"] == EXAMPLE["rabbitmq_memory_limit"]
    assert there["ssl_options.fail_if_no_peer_cert"] == there["prometheus.ssl.fail_if_no_peer_cert"] == "true"
    assert there["listeners.tcp"] == "none"


def test_the_brokers_run_the_release_that_compose_runs() -> None:
    """The own default of the operator, 4.2.6 in release 2.22.3, is below the minimum."""
    pins = yaml.safe_load((ROOT / "compose/pins.yaml").read_text())["pins"]
    image = of_kind("RabbitmqCluster")[0]["spec"]["image"]
    assert image == pins["rabbitmq"]["image"]
    release = re.fullmatch(r"rabbitmq:([0-9.]+)-management", image)
    assert release
    assert [int(part) for part in release[1].split(".")] >= [
        int(part) for part in SHARED["rabbitmq_minimum_version"].split(".")
    ]


def test_each_program_is_a_deployment_that_keda_scales_by_its_queue() -> None:
    deployments = {item["metadata"]["name"]: item["spec"]["template"]["spec"] for item in of_kind("Deployment")}
    scaled = {item["spec"]["scaleTargetRef"]["name"]: item["spec"] for item in of_kind("ScaledObject")}
    programs = {f"worker-{program['name']}": program for program in EXAMPLE["workers_programs"]}
    assert deployments.keys() == scaled.keys() == programs.keys()
    for name, program in programs.items():
        pod = deployments[name]
        assert pod["terminationGracePeriodSeconds"] == WORKERS["workers_stop_wait"]
        command = pod["containers"][0]["command"]
        assert command[command.index("-Q") + 1] == program["queue"]
        assert command[command.index("-c") + 1] == str(program["concurrency"])
        trigger = scaled[name]["triggers"][0]["metadata"]
        assert trigger["queueName"] == program["queue"]
        assert trigger["vhostName"] == SHARED["rabbitmq_vhost"]
        # by AMQP KEDA would count what waits alone, and stop workers that run the last tasks
        assert trigger["protocol"] == "http"
        assert scaled[name]["minReplicaCount"] >= 1


def test_a_worker_knows_every_broker_by_name() -> None:
    for item in of_kind("Deployment"):
        environment = {
            one["name"]: one.get("value") for one in item["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        urls = environment["HOLDFAST_BROKER_URL"].split(",")
        assert [re.sub(".*@|:.*", "", url.removeprefix("amqps://worker:")) for url in urls] == [
            f"holdfast-server-{number}.holdfast-nodes" for number in range(3)
        ]
        assert environment["REMAP_SIGTERM"] == "SIGQUIT"


@pytest.mark.parametrize("name", MANIFESTS)
def test_its_first_line_says_that_nobody_has_run_it(name: str) -> None:
    assert "Not run by us" in (ROOT / "kubernetes" / name).read_text().splitlines()[0]

"""Who watches the watchers: a sign of life for somebody outside, and several hosts that watch each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .commands import ROOT
from .test_inventory import EXAMPLE, example, faults

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

URL = "https://hc.example.com/a-secret-part"
ROLES = ROOT / "ansible/roles"
OPTIONS = f"{ROLES}/alertmanager/templates/alertmanager.default.j2"
CLUSTER = f"{ROLES}/alertmanager/templates/cluster.yml.j2"
FIREWALL = f"{ROLES}/firewall/templates/firewall.nft.j2"


def render(folder: Path, watchers: dict[str, str], variables: dict[str, object]) -> Path:
    """Write the files of watchers from an inventory of one's own.

    Args:
        folder: for the inventory and the files.
        watchers: hosts of the example, and their addresses.
        variables: of the inventory.

    Returns:
        The folder with a folder for each watcher.
    """
    inventory = shutil.copytree(EXAMPLE, folder / "inventory")
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())
    for group in ("prometheus", "alertmanager"):
        hosts["all"]["children"][group] = {"hosts": {name: {} for name in watchers}}
    for name, address in watchers.items():
        hosts["all"]["hosts"][name]["holdfast_address"] = address
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
    (inventory / "group_vars/all/own.yml").write_text(yaml.safe_dump(variables))
    out = folder / "out"
    roles: list[dict[str, object]] = [
        {"ansible.builtin.include_role": {"name": f"holdfast.stack.{name}", "tasks_from": "render", "public": True}}
        for name in ("prometheus", "alertmanager")
    ]
    files: list[dict[str, object]] = [
        {"ansible.builtin.template": {"src": source, "dest": f"{out}/{{{{ inventory_hostname }}}}/{name}"}}
        for source, name in ((OPTIONS, "options"), (CLUSTER, "cluster.yml"), (FIREWALL, "firewall"))
    ]
    play = {
        "hosts": "alertmanager", "gather_facts": False, "tasks": roles + files,
        "vars": {
            "ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "render_dir": f"{out}/{{{{ inventory_hostname }}}}",
        },
    }  # fmt: skip
    check = {"ansible.builtin.import_playbook": f"{ROOT}/ansible/playbooks/check.yml"}
    (folder / "play.yml").write_text(yaml.safe_dump([check, play]))
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", inventory, folder / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert URL not in done.stdout
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of one host, without a dead man's switch, as by default."""
    return render(tmp_path_factory.mktemp("one"), {"ops": "192.0.2.31"}, {}) / "ops"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of two hosts with a dead man's switch, whose address is a variable of a host."""
    variables: dict[str, object] = {"alertmanager_heartbeat_url": "{{ hostvars['ops'].switch }}", "switch": URL}
    return render(tmp_path_factory.mktemp("two"), {"ops": "192.0.2.31", "node1": "192.0.2.11"}, variables)


def routed(file: dict[str, Any]) -> dict[str, Any]:
    """Return the route of the watchdog, which must be the first one that takes it."""
    found: dict[str, Any] = file["route"]["routes"][0]
    assert found["matchers"] == ['alertname = "Watchdog"']
    return found


def alertmanager(folder: Path) -> dict[str, Any]:
    """Return Alertmanager's file."""
    loaded: dict[str, Any] = yaml.safe_load((folder / "secret/alertmanager/alertmanager.yml").read_text())
    return loaded


def jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what Prometheus reads, by the name of the job."""
    file = yaml.safe_load((folder / "prometheus/prometheus.yml").read_text())
    return {job["job_name"]: job for job in file["scrape_configs"]}


def test_the_watchdog_of_a_deployment_without_a_switch_disturbs_nobody(one: Path) -> None:
    file = alertmanager(one)
    assert routed(file) == {"receiver": "page", "matchers": ['alertname = "Watchdog"']}
    assert {"name": "page"} in file["receivers"]
    assert "heartbeat" not in {receiver["name"] for receiver in file["receivers"]}


def test_the_signal_goes_to_the_switch_alone_and_its_end_is_no_signal(two: Path) -> None:
    file = alertmanager(two / "ops")
    assert routed(file)["receiver"] == "heartbeat"
    assert [receiver for receiver in file["receivers"] if URL in str(receiver)] == [
        {"name": "heartbeat", "webhook_configs": [{"url": URL, "send_resolved": False}]}
    ]


def test_the_signal_comes_once_a_minute(two: Path) -> None:
    """Alertmanager looks each group_interval, and sends when the last time is longer ago than repeat_interval."""
    route = routed(alertmanager(two / "ops"))
    look, age = (int(route[name].removesuffix("s")) for name in ("group_interval", "repeat_interval"))
    assert (age // look + 1) * look == 60
    assert age % look > 5, "a signal that took some seconds to send does not put the next one off"
    assert age > look, "Alertmanager warns of another order"


def test_nothing_holds_the_watchdog_back(one: Path) -> None:
    """An inhibition that took it would tell of a dead Prometheus with every dead host."""
    labels = {"alertname": "Watchdog", "severity": "none", "component": "monitoring", "job": "", "instance": ""}
    signs = {"=": True, "!=": False, "=~": True, "!~": False}

    def takes(matcher: str) -> bool:
        name, sign, value = re.fullmatch(r'(\w+) (=~|!~|!=|=) "(.+)"', matcher).groups()  # type: ignore[union-attr]  # no match fails
        return bool(re.fullmatch(value if "~" in sign else re.escape(value), labels[name])) == signs[sign]

    rules = alertmanager(one)["inhibit_rules"]
    for rule in rules:
        held = all(takes(matcher) for matcher in rule["target_matchers"])
        # alerts without an instance are alike in it, and HostDown always has one
        assert not held or rule["equal"] == ["instance"], rule
    assert takes('component != "hosts"'), "the comparison knows the one that takes it but for the instance"


def test_one_has_no_cluster_and_no_port_for_it(one: Path) -> None:
    options = (one / "options").read_text()
    assert re.findall(r"--cluster\S*", options) == ['--cluster.listen-address="']
    assert "9094" not in (one / "firewall").read_text()
    assert read(jobs(one)["prometheus"]) == ["localhost:9090"]


@pytest.mark.parametrize(("host", "other"), [("ops", "node1"), ("node1", "ops")])
def test_each_of_two_watches_the_other_and_tells_both_alertmanagers(two: Path, host: str, other: str) -> None:
    found = jobs(two / host)
    assert read(found["prometheus"]) == ["localhost:9090", f"{other}:9090"]
    assert found["prometheus"]["relabel_configs"][-1]["replacement"] == host
    file = yaml.safe_load((two / host / "prometheus/prometheus.yml").read_text())
    told = file["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert sorted(told) == sorted(found["alertmanager"]["static_configs"][0]["targets"]) == ["node1:9093", "ops:9093"]
    assert file["global"]["external_labels"]["runbooks"].startswith(f"https://{host}:9090/"), "no link to a dead host"
    assert {name: read(job) for name, job in found.items() if name != "prometheus"} == {
        name: read(job) for name, job in jobs(two / other).items() if name != "prometheus"
    }, "both read the same"


def read(job: dict[str, Any]) -> list[str]:
    """Return all targets of a job."""
    return [target for config in job["static_configs"] for target in config["targets"]]


@pytest.mark.parametrize(
    ("host", "own", "other"), [("ops", "192.0.2.31", "192.0.2.11"), ("node1", "192.0.2.11", "192.0.2.31")]
)
def test_two_alertmanagers_are_a_cluster_with_certificates(two: Path, host: str, own: str, other: str) -> None:
    options = re.findall(r"--cluster\.([\w-]+)=([^\s\"]+)", (two / host / "options").read_text())
    assert dict(options) == {
        "listen-address": "0.0.0.0:9094",
        "advertise-address": f"{own}:9094",
        "peer": f"{other}:9094",
        "tls-config": "/etc/prometheus/alertmanager-cluster.yml",
    }
    assert len(options) == 4
    file = yaml.safe_load((two / host / "cluster.yml").read_text())
    assert file["tls_server_config"]["client_auth_type"] == "RequireAndVerifyClientCert"
    assert file["tls_server_config"]["client_ca_file"] == file["tls_client_config"]["ca_file"]


@pytest.mark.parametrize("port", [9090, 9094])
def test_the_firewall_lets_the_watchers_reach_each_other(two: Path, port: int) -> None:
    rule = re.search(rf"tcp dport {port} ip saddr {{ (.+) }} accept", (two / "ops/firewall").read_text())
    assert rule
    assert rule[1] == "192.0.2.11, 192.0.2.31"


@pytest.mark.parametrize("url", ["hc.example.com/x", "ftp://hc.example.com/x", "https://", "https:///x", "http://a b"])
def test_a_switch_that_is_no_address_is_refused_and_not_shown(url: str) -> None:
    hostvars, groups = example()
    hostvars["node1"]["alertmanager_heartbeat_url"] = url
    said = "\n".join(faults(hostvars, groups))
    assert "found:   alertmanager_heartbeat_url, which is no address of the web\nallowed: " in said
    assert url not in said.splitlines()[0]
    hostvars["node1"]["alertmanager_heartbeat_url"] = URL
    assert faults(hostvars, groups) == []


@pytest.mark.parametrize("group", ["prometheus", "alertmanager"])
def test_a_switch_that_nobody_serves_is_refused(group: str) -> None:
    hostvars, groups = example()
    groups[group] = []
    assert faults(hostvars, groups) == []
    hostvars["node1"]["alertmanager_heartbeat_url"] = URL
    assert f"no host in the group {group}" in "\n".join(faults(hostvars, groups))


def test_a_cluster_without_tls_is_refused() -> None:
    hostvars, groups = example()
    groups["alertmanager"] = ["ops", "node1"]
    assert faults(hostvars, groups) == []
    hostvars["node1"]["tls_enabled"] = False
    assert "2 host(s) in the group alertmanager with tls_enabled: false" in "\n".join(faults(hostvars, groups))
    groups["alertmanager"] = ["ops"]
    assert faults(hostvars, groups) == []

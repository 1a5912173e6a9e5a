"""What the drill understands of hosts, and what it runs on them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from drill.faults.base import both_ways, from_peers
from drill.targets import Node, TargetError
from drill.targets.hosts import SERVICES, Hosts, kill_script, look_script, read_look
from drill.targets.ssh import Connection

if TYPE_CHECKING:
    from pathlib import Path

SAID = """\
Id=redis-server.service
ActiveState=active
MainPID=209

Id=rabbitmq-server.service
ActiveState=activating
MainPID=0

Id=supervisor.service
ActiveState=active
MainPID=352
==
/sys/fs/cgroup/system.slice/redis-server.service/cgroup.events
==
    209       1 Ssl  0::/system.slice/redis-server.service            /usr/bin/redis-server 127.0.0.1:6379
    352       1 Ss   0::/system.slice/supervisor.service              /usr/bin/python3 /usr/bin/supervisord -n
    354     352 S    0::/system.slice/supervisor.service              /opt/bin/celery -A x worker -n beat@h
    355     352 Tl   0::/system.slice/supervisor.service              /opt/bin/python /opt/bin/celery --quiet -A x beat
    356     354 S    0::/system.slice/supervisor.service              /opt/bin/celery -A x worker -n beat@h
    400       1 S    0::/user.slice                                   celery -A x beat
    401       2 I    0::/
"""


def hosts_of(folder: Path, server: str = "redis", **changes: Any) -> Hosts:
    """Return a target of one host, which ``ssh`` reaches without sudo."""
    ssh = {"address": "10.0.0.1", "user": "", "port": 0, "key": "", "arguments": "", "become": False}
    host = {"drill": "allowed", "address": "10.0.0.1", "groups": ["redis", "sentinel", "workers"], "ssh": ssh} | changes
    owner = folder.owner()
    hosts = {"data1.example": host}
    content = {"name": "some", "ledger": str(folder / "there"), "owner": owner, "redis_server": server, "hosts": hosts}
    (folder / "hosts.json").write_text(json.dumps(content))
    return Hosts(folder, folder)


def local_ssh(folder: Path, monkeypatch: pytest.MonkeyPatch, marker: Path | None) -> None:
    """Put an ``ssh`` first on the path that runs its command here, with ``iptables``, and a marker if one is given."""
    if marker:
        marker.touch()
    monkeypatch.setattr("drill.targets.hosts.MARKER", str(marker or folder / "no-marker"))
    monkeypatch.setattr("drill.targets.ssh.SOCKETS", folder / "sockets")
    for name, script in {"ssh": 'for last; do :; done; exec sh -c "$last"', "iptables": "exit 0"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("group", "state", "process"),
    [("redis", "paused", 209), ("rabbitmq", "restarting", 0), ("workers", "running", 352), ("beat", "paused", 355)],
)
def test_a_look_tells_states_and_main_processes(group: str, state: str, process: int) -> None:
    look = read_look(SAID)
    assert look.state(SERVICES[group]) == state
    assert look.process(SERVICES[group])[0] == process


@pytest.mark.parametrize(("word", "state"), [("failed", "exited"), ("inactive", "exited"), ("reloading", "paused")])
def test_what_systemd_calls_a_unit_is_a_state(word: str, state: str) -> None:
    assert (
        read_look(SAID.replace("ActiveState=active\nMainPID=209", f"ActiveState={word}\nMainPID=209")).state(
            SERVICES["redis"]
        )
        == state
    )


def test_a_program_without_a_process_has_no_state_of_its_own() -> None:
    assert read_look(SAID).state(SERVICES["relay"]) == ""


def test_a_frozen_supervisor_has_frozen_programs() -> None:
    look = read_look(SAID.replace("redis-server.service/cgroup", "supervisor.service/cgroup"))
    assert [look.state(SERVICES[group]) for group in ("workers", "relay", "redis")] == ["paused", "paused", "running"]


def test_scripts_name_every_unit() -> None:
    units = ["redis-server.service", "redis-sentinel.service"]
    assert all(script.count(unit) >= 2 for unit in units for script in (look_script(units), kill_script(units)))


def test_ssh_is_told_what_ansible_is() -> None:
    way = Connection("data1", "192.0.2.1", "lab", 2222, "/some/key", "-o 'ProxyCommand=nc %h %p'", become=True)
    command = way.command("echo 'a b'")
    assert command[0] == "ssh"
    expected = ["-l", "lab", "-p", "2222", "-i", "/some/key", "-o", "ProxyCommand=nc %h %p", "192.0.2.1", "--"]
    assert command[-11:-1] == expected
    assert command[-1] == """sudo -n sh -ec 'echo '"'"'a b'"'"''"""
    bare = Connection("data1", "192.0.2.1", become=False).command("true")
    assert not {"-l", "-p", "-i"} & set(bare)
    assert bare[-1] == "sh -ec true"


def test_a_host_without_the_variable_refuses_all(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"data1\.example of inventory some lack the variable holdfast_drill=allowed"):
        hosts_of(tmp_path, drill="")


def test_a_host_without_the_file_refuses_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_ssh(tmp_path, monkeypatch, None)
    with pytest.raises(TargetError, match=r"data1\.example lacks .*no-marker"):
        hosts_of(tmp_path)


def test_a_host_that_cannot_be_reached_refuses_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_ssh(tmp_path, monkeypatch, tmp_path / "marker")
    (tmp_path / "ssh").write_text("#!/bin/sh\necho no route >&2; exit 255\n")
    with pytest.raises(TargetError, match=r"data1\.example cannot be reached by ssh \(255\): no route"):
        hosts_of(tmp_path)


def test_ledgers_come_from_the_host_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_ssh(tmp_path, monkeypatch, tmp_path / "marker")
    hosts = hosts_of(tmp_path)
    here = tmp_path / "run-1"
    here.mkdir()
    hosts.open_ledger(here)
    hosts.fetch_ledger(here)
    assert not list(here.iterdir())
    there = tmp_path / "there/run-1"
    for name in ("h-1.ledger", "h-1.head", "h-2.ledger", "h-2.head"):
        (there / name).write_text(name)
    hosts.fetch_ledger(here)
    assert {path.name: path.read_text() for path in here.iterdir()} == {
        name: name for name in ("h-1.ledger", "h-1.head", "h-2.ledger", "h-2.head")
    }


def test_services_of_one_host_are_cut_off_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_ssh(tmp_path, monkeypatch, tmp_path / "marker")
    nodes = hosts_of(tmp_path).nodes
    assert [(node.name, node.host) for node in nodes.values()] == [
        ("redis@data1.example", "data1"),
        ("sentinel@data1.example", "data1"),
        ("worker@data1.example", "data1"),
    ]
    peer = Node("redis@data2", "redis", "10.0.0.2", "data2", "data2")
    assert both_ways(nodes["redis@data1.example"], peer) == [
        "-s 10.0.0.2 -d 10.0.0.1 -p tcp --dport 6379 -j DROP",
        "-d 10.0.0.2 -s 10.0.0.1 -p tcp --sport 6379 -j DROP",
    ]


@pytest.mark.parametrize("server", ["redis", "valkey"])
def test_the_units_of_the_result_store_have_the_name_of_its_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_ssh(tmp_path, monkeypatch, tmp_path / "marker")
    hosts, asked = hosts_of(tmp_path, server), []
    monkeypatch.setattr(hosts, "_run", lambda _node, script, *_: asked.append(script))
    for node in hosts.nodes.values():
        hosts.start(node)
    units = [re.findall(r"systemctl start (?:--no-block )?(\S+\.service)", script) for script in asked]
    assert units == [[f"{server}-server.service"], [f"{server}-sentinel.service"], ["supervisor.service"]]


def test_a_container_is_cut_off_whole() -> None:
    node, peer = (Node(name, "rabbit", f"10.0.0.{number}", name, name) for number, name in enumerate(("a", "b"), 1))
    assert [rule.split() for rule in both_ways(node, peer)] == [
        ["-s", "10.0.0.2", "-j", "DROP"],
        ["-d", "10.0.0.2", "-j", "DROP"],
    ]
    assert len(from_peers(node, peer)) == 1

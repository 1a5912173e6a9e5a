"""What the engine says of the running containers: what a process that breaks into one of them finds there."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from .stack import PROJECT, made, wait_until

if TYPE_CHECKING:
    from .stack import Stack

pytestmark = pytest.mark.stack

# Beyond none: five for servers that start as root, hand their data to a user, and become that user
STEPS_DOWN = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
CAPABILITIES = {"rabbit": STEPS_DOWN, "redis": STEPS_DOWN, "sentinel": STEPS_DOWN, "postgres": STEPS_DOWN}
WRITABLE = {"grafana"}  # the reason is in compose/compose.yaml


@pytest.fixture(scope="module")
def containers(stack: Stack) -> dict[str, dict[str, Any]]:
    """What ``docker inspect`` tells of each service that runs."""
    mine = (
        "--filter",
        f"label=com.docker.compose.project={PROJECT}",
        "--filter",
        "label=com.docker.compose.oneoff=False",
    )

    def running() -> dict[str, dict[str, Any]]:
        found = json.loads(stack.run("docker", "inspect", *stack.run("docker", "ps", "--quiet", *mine).split()))
        services = {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}
        healths = {name: one["State"].get("Health", {}).get("Status", "healthy") for name, one in services.items()}
        if set(healths.values()) != {"healthy"}:  # one that is being started may not have stepped down yet
            raise ValueError(healths)
        return services

    found = wait_until(running, "every container serves")
    assert len(found) > 15
    return found


def test_a_container_has_no_right_that_its_server_does_not_need(containers: dict[str, dict[str, Any]]) -> None:
    for name, container in containers.items():
        host = container["HostConfig"]
        given = {one.removeprefix("CAP_") for one in host["CapAdd"] or []}
        assert given == CAPABILITIES.get(name.rstrip("0123456789"), set()), name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert 0 < host["PidsLimit"] <= 512, name
        assert host["Memory"] > 0, name
        assert not host["Privileged"], name
        assert host["ReadonlyRootfs"] is (name not in WRITABLE), name
        assert not [one["Source"] for one in container["Mounts"] if one["Source"].endswith("docker.sock")], name


def test_the_server_itself_runs_without_a_capability(stack: Stack, containers: dict[str, dict[str, Any]]) -> None:
    """The five of a server that steps down are its start script's: they are gone when it serves."""
    for name, container in containers.items():
        status = stack.run("cat", f"/proc/{container['State']['Pid']}/status")
        effective = dict(line.split(":\t", 1) for line in status.splitlines())
        assert int(effective["CapEff"], 16) == 0, name
        assert effective["Uid"].split()[0] != "0", name


def test_docker_inspect_shows_no_secret(containers: dict[str, dict[str, Any]]) -> None:
    text = json.dumps(containers)
    assert "NETWORK=" in text, "the control: this is the place where an environment would be seen"
    assert [name for name, secret in made()["passwords"].items() if secret in text] == []


@pytest.mark.parametrize("service", ["rabbit1", "redis1", "sentinel1", "postgres", "worker1", "receiver", "prometheus"])
def test_nothing_can_be_written_beside_volumes_and_memory(stack: Stack, service: str) -> None:
    def write(path: str) -> str:
        command = (
            "docker",
            "exec",
            "--user",
            "0",
            stack.container(service),
            "sh",
            "-c",
            f"echo x >{path} && rm {path}",
        )
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr

    for path in ("/usr/local/bin/planted", "/etc/planted", "/planted"):
        assert "Read-only file system" in write(path), path
    assert not write("/tmp/planted"), "the control: memory takes it"  # noqa: S108 - of a container


def test_the_databases_user_is_no_superuser(stack: Stack) -> None:
    """It owns the application's database, and may make neither users nor databases."""
    asked = "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles WHERE rolname !~ '^pg_'"
    answer = stack.inside("postgres", "psql", "-U", "postgres", "-Atc", asked)
    assert set(answer.splitlines()) == {"postgres|t|t|t|t", "webhooks|f|f|f|f"}

"""What stops ``make up`` before it begins: each finding says what was found, what is allowed and the next step."""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.scripts.conftest import Machine

NOBODY = 65534


def refused(machine: Machine, *expected: str, script: str = "preflight", user: int | None = None, **env: str) -> str:
    """Run a script that must refuse, say ``expected`` and change nothing; return what it said."""
    before = machine.files()
    run = machine.run(script, user=user, **env)
    assert run.returncode == 1, run.stdout + run.stderr
    for text in ("found:", "allowed:", "next:", *expected):
        assert text in run.stderr
    assert machine.files() == before
    return run.stderr


@pytest.mark.parametrize("script", ["preflight", "bootstrap", "up"])
def test_without_docker_every_entry_says_how_to_get_it(machine: Machine, script: str) -> None:
    refused(
        machine, "no Docker on this machine", "docs.docker.com/engine/install", "nothing was changed", script=script
    )


def test_a_dead_engine_is_named_with_the_engines_own_words(machine: Machine) -> None:
    machine.program("docker", 'echo "Cannot connect to the Docker daemon" >&2; exit 1')
    refused(machine, "Cannot connect to the Docker daemon", "systemctl start docker")


def test_an_engine_that_refuses_the_user_names_the_group(machine: Machine) -> None:
    machine.program("docker", 'echo "permission denied while trying to connect" >&2; exit 1')
    refused(machine, "usermod -aG docker")


def test_compose_v1_is_refused_by_name(machine: Machine) -> None:
    machine.docker(compose="")
    machine.program("docker-compose", "echo 1.29.2")
    refused(machine, "Docker Compose v1 (1.29.2", "Compose v2", "apt-get remove docker-compose")


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"compose": "2.10.2"}, "Docker Compose 2.10.2"), ({"engine": "19.03.15"}, "Docker engine 19.03.15")],
)
def test_versions_that_are_too_old_are_refused(machine: Machine, found: dict[str, str], expected: str) -> None:
    machine.docker(**found)
    refused(machine, expected, "or newer")


@pytest.mark.parametrize("port", [15672, 5681, 5682, 5683, 5555, 9090, 9093, 8025])
def test_a_port_that_is_taken_is_named(machine: Machine, port: int) -> None:
    machine.docker()
    with socket.socket() as taken:
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        except OSError:
            pass  # something else has it already: as good
        refused(machine, f"port {port} on 127.0.0.1 is taken", f"sport = :{port}")


def test_our_own_running_stack_may_have_the_ports_and_the_memory(machine: Machine) -> None:
    machine.docker(running="0123456789ab")
    run = machine.run("preflight", HOLDFAST_MIN_MEMORY_MIB="99999999")
    assert run.returncode == 0, run.stderr


def test_too_little_memory_is_refused(machine: Machine) -> None:
    machine.docker()
    refused(machine, "MiB of memory available", "99999999 MiB or more", HOLDFAST_MIN_MEMORY_MIB="99999999")


def test_too_little_disk_is_refused_and_says_where(machine: Machine) -> None:
    machine.docker()
    refused(machine, f"free in {machine.checkout}", "99999999 MiB or more", HOLDFAST_MIN_DISK_MIB="99999999")


def test_an_unknown_broker_is_refused_before_anything_else(machine: Machine) -> None:
    refused(machine, "BROKER=kafka", "rabbitmq (the default) or redis", script="up", BROKER="kafka")


@pytest.mark.parametrize("image", ["rabbitmq:4.3.4-management", "rabbitmq:3", "rabbitmq", "rabbitmq:latest"])
def test_a_rabbitmq_that_loses_data_is_refused(machine: Machine, image: str) -> None:
    machine.docker(running="0123456789ab")
    refused(machine, image, "4.3.5", HOLDFAST_RABBITMQ_IMAGE=image)


@pytest.mark.parametrize("image", ["rabbitmq:4.3.5-management", "rabbitmq:4.10.0", "registry.example:5000/mq:4.3.6"])
def test_a_newer_rabbitmq_is_taken(machine: Machine, image: str) -> None:
    machine.docker(running="0123456789ab")
    run = machine.run("preflight", HOLDFAST_RABBITMQ_IMAGE=image)
    assert run.returncode == 0, run.stderr


def test_everything_that_is_wrong_is_said_at_once(machine: Machine) -> None:
    said = refused(machine, "no Docker", "no 'docker compose'", HOLDFAST_MIN_MEMORY_MIB="99999999")
    assert "MiB of memory" in said


@pytest.fixture
def other(machine: Machine) -> Path:
    """Another checkout, which has started the stack."""
    folder = machine.checkout.parent / "other checkout"
    folder.mkdir()
    (folder / "compose.yaml").touch()
    machine.docker(running=str(folder))
    return folder


@pytest.mark.parametrize(("script", "step"), [("up", "COMPOSE_PROJECT_NAME=second"), ("down", "'make down' there")])
def test_the_stack_of_another_checkout_is_not_touched(machine: Machine, other: Path, script: str, step: str) -> None:
    refused(machine, f"started in {other}", step, script=script)
    assert not [call for call in machine.calls("docker").read_text().splitlines() if not call.startswith("ps ")]


def test_a_second_stack_is_asked_for_by_its_own_name(machine: Machine) -> None:
    machine.docker()
    machine.run("up", COMPOSE_PROJECT_NAME="second")
    asked = machine.calls("docker").read_text()
    assert "label=com.docker.compose.project=second" in asked
    assert "label=com.docker.compose.project=holdfast" not in asked


@pytest.mark.parametrize("why", ["moved", "linked", "own"])
def test_a_checkout_goes_on_with_its_own_stack(machine: Machine, other: Path, why: str) -> None:
    """Also in a folder that was moved, or that is reached by another path."""
    (machine.checkout / "compose.yaml").touch()
    shutil.rmtree(other)
    if why == "linked":
        other.symlink_to(machine.checkout)
    if why == "own":
        machine.docker(running=str(machine.checkout))
    run = machine.run("down")
    assert run.returncode == 0, run.stderr
    assert "compose --project-name holdfast down" in machine.calls("docker").read_text()


def test_clean_says_whose_stack_it_removes(machine: Machine, other: Path) -> None:
    assert f"network of the stack, which was started in {other}" in machine.run("clean").stdout

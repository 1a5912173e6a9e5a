"""Which system the hosts of the lab get, and what is served beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.scripts.conftest import Machine

SERVED = "run --detach --name holdfast-lab-packages"


def up(machine: Machine, there: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Make the host data1; one that is there has the image ``there``."""
    machine.program(
        "docker",
        f"""
        case "$*" in
          "info") ;;
          *"{{{{.Config.Image}}}}"*) echo "{there}" ;;
          "container inspect holdfast-lab-data1") [[ -n "{there}" ]] ;;
          "container inspect"*) exit 1 ;;
          "exec holdfast-lab-packages cat fingerprint") echo 0123 ;;
        esac
        """,
    )
    for name in ("ssh-keyscan", "ssh-keygen"):
        machine.program(name, "echo key")
    (machine.checkout / "build/lab").mkdir(parents=True, exist_ok=True)
    for file in ("key", "key.pub"):
        (machine.checkout / "build/lab" / file).touch()
    machine.program("apt-get", "echo 'Debian|http://debian.example/debian'")
    return machine.run("lab", "up", "data1", user=None, **environment)


@pytest.mark.parametrize(
    ("system", "base", "sources", "served"),
    [
        ("debian14", "debian:forky-slim", ["deb http://debian.example/debian forky main"], False),
        ("debian13", "debian:trixie-slim", ["deb http://debian.example/debian trixie main"], True),
        (
            "ubuntu2404",
            "ubuntu:noble",
            [
                "deb http://ubuntu.example/ubuntu noble main universe",
                "deb http://ubuntu.example/ubuntu noble-updates main universe",
            ],
            True,
        ),
    ],
)
def test_a_system_has_its_base_and_where_needed_a_repository(
    machine: Machine, system: str, base: str, sources: list[str], served: bool
) -> None:
    run = up(machine, HOLDFAST_LAB_OS=system, HOLDFAST_UBUNTU_MIRROR="http://ubuntu.example/ubuntu")
    assert run.returncode == 0, run.stderr
    said = machine.calls("docker").read_text()
    assert f"--build-arg BASE={base} --build-arg SOURCES=" + "\n".join(sources) in said
    assert f"--tag holdfast-lab:{system} " in said
    assert (SERVED in said) is served
    fingerprint = machine.checkout / "build/lab/packages-fingerprint"
    assert (fingerprint.read_text() if fingerprint.exists() else "") == ("0123\n" if served else "")


def test_debian_14_is_what_nobody_has_to_ask_for(machine: Machine) -> None:
    assert up(machine).returncode == 0
    assert "--tag holdfast-lab:debian14 " in machine.calls("docker").read_text()


def test_an_unknown_system_is_refused(machine: Machine) -> None:
    run = up(machine, HOLDFAST_LAB_OS="rocky9")
    assert run.returncode == 1
    assert "found:   no system rocky9 for lab hosts" in run.stderr
    assert "allowed: debian14, debian13 or ubuntu2404" in run.stderr
    assert "next:" in run.stderr
    assert "build" not in machine.calls("docker").read_text()


def test_a_host_keeps_its_system(machine: Machine) -> None:
    assert up(machine, there="holdfast-lab:debian13", HOLDFAST_LAB_OS="debian13").returncode == 0
    run = up(machine, there="holdfast-lab:debian13")
    assert run.returncode == 1
    assert "found:   data1 has the system debian13, asked for is debian14" in run.stderr
    assert "next:" in run.stderr


def test_the_repository_goes_with_the_last_host(machine: Machine) -> None:
    assert up(machine, HOLDFAST_LAB_OS="debian13").returncode == 0
    machine.program("docker", "")
    assert machine.run("lab", "down", "data1").returncode == 0
    assert "rm --force holdfast-lab-packages" in machine.calls("docker").read_text()
    assert not (machine.checkout / "build/lab").exists()

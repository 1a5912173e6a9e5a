"""Which image is kept, pulled or built: decided by what is present and what the registry says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scripts.conftest import Machine

IMAGES = "rabbitmq:4.3.6-management redis:8.2.9"


def prepare(
    machine: Machine,
    *,
    present: str = "",
    pullable: str = "",
    otherwise: str = "lookup registry: no such host",
    digest: str = "null",
) -> None:
    """Put a Docker on PATH that holds and can pull what is named, and says ``otherwise`` about any other image."""
    (machine.checkout / "compose/pins.yaml").write_text(
        f"pins:\n  redis:\n    image: {IMAGES.split()[1]}\n    digest: {digest}\n", encoding="utf-8"
    )
    machine.program("debootstrap", "exit 1")
    machine.program(
        "docker",
        f"""
        last=${{!#}}
        case "$*" in
          *"config --images") printf '%s\\n' {IMAGES} holdfast-app:dev ;;
          "image inspect --format {{{{join"*) echo "redis@sha256:given" ;;
          "image inspect --format"*) echo "" ;;
          "image inspect"*) [[ " {present} " == *" $last "* ]] ;;
          pull*) [[ " {pullable} " == *" $last "* ]] || {{ echo "{otherwise}" >&2; exit 1; }} ;;
        esac
        """,
    )


def built(machine: Machine) -> list[str]:
    """Return the tags that were built, in order; those that Compose builds by their services."""
    calls = machine.calls("docker").read_text().splitlines()
    return [
        call.split("build ")[1].split("--tag ")[-1].split(" /")[0]
        for call in calls
        if re.match(r"(compose )?build ", call)
    ]


OWN = ["receiver init", "holdfast-tools:dev"]
BASES = "debian:trixie-slim debian:forky-slim"


def test_what_is_present_is_kept_without_asking_a_registry(machine: Machine) -> None:
    prepare(machine, present=f"{IMAGES} {BASES}")
    run = machine.run("images")
    assert run.returncode == 0, run.stderr
    assert built(machine) == OWN
    assert "pull" not in machine.calls("docker").read_text()


def test_a_registry_that_answers_gives_the_official_images(machine: Machine) -> None:
    prepare(machine, pullable=f"{IMAGES} {BASES}")
    run = machine.run("images")
    assert run.returncode == 0, run.stderr
    assert built(machine) == OWN
    assert "stand-in" not in run.stdout.lower()


def test_without_a_registry_stand_ins_are_built_and_called_so(machine: Machine) -> None:
    prepare(machine, present=BASES)
    run = machine.run("images")
    assert run.returncode == 0, run.stderr
    assert built(machine) == [*IMAGES.split(), *OWN]
    assert "no such host" in run.stdout
    assert "not the official images" in run.stdout
    assert machine.calls("docker").read_text().count("pull ") == 1, "one answer is enough"


def test_a_registry_that_refuses_one_image_is_not_replaced_by_a_stand_in(machine: Machine) -> None:
    prepare(machine, present=BASES, pullable=IMAGES.split(maxsplit=1)[0])
    run = machine.run("images")
    assert run.returncode == 1
    assert "redis:8.2.9 cannot be pulled" in run.stderr
    assert "next:" in run.stderr
    assert built(machine) == []


def test_a_registry_that_does_not_know_a_tag_is_a_registry(machine: Machine) -> None:
    prepare(machine, present=BASES, otherwise="manifest for redis:8.2.9 not found: manifest unknown")
    run = machine.run("images")
    assert run.returncode == 1
    assert "manifest unknown" in run.stderr
    assert built(machine) == []


def test_a_failed_build_shows_its_end_and_the_next_step(machine: Machine) -> None:
    prepare(machine)
    machine.program("debootstrap", 'echo "E: no mirror" >&2; exit 1')
    run = machine.run("images")
    assert run.returncode == 1
    assert "next:" in run.stderr
    assert built(machine) == []


def test_an_image_with_another_digest_than_the_pinned_one_is_refused(machine: Machine) -> None:
    prepare(machine, pullable=f"{IMAGES} {BASES}", digest="sha256:given")
    assert machine.run("images").returncode == 0
    prepare(machine, pullable=f"{IMAGES} {BASES}", digest="sha256:pinned")
    run = machine.run("images")
    assert run.returncode != 0
    assert "redis:8.2.9 is not the image with the digest sha256:pinned" in run.stderr

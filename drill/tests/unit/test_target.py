"""The drill refuses what does not say that it may be broken."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from drill.targets import TargetError
from drill.targets.compose import MARKER, Compose

if TYPE_CHECKING:
    from pathlib import Path


def docker(folder: Path, monkeypatch: pytest.MonkeyPatch, containers: dict[str, dict[str, str]]) -> None:
    """Put a ``docker`` first on the path that knows these services and their labels."""
    found: list[dict[str, Any]] = [
        {
            "Id": f"id-{name}",
            "Config": {"Labels": {"com.docker.compose.service": name, **labels}},
            "NetworkSettings": {"Networks": {"net": {"IPAMConfig": {"IPv4Address": "10.0.0.1"}}}},
        }
        for name, labels in containers.items()
    ]
    (folder / "inspect.json").write_text(json.dumps(found))
    script = folder / "docker"
    ids = "\n".join(container["Id"] for container in found) if found else ""
    script.write_text(
        f'#!/bin/sh\ncase $1 in ps) echo "{ids}";; inspect) cat {folder}/inspect.json;; *) echo no >&2; exit 9;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_marked_project_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker(tmp_path, monkeypatch, {"rabbit1": {MARKER: "allowed"}, "redis1": {MARKER: "allowed"}})
    target = Compose("anything")
    assert [(node.name, node.tier, node.address) for node in target.nodes.values()] == [
        ("rabbit1", "rabbit", "10.0.0.1"),
        ("redis1", "redis", "10.0.0.1"),
    ]


@pytest.mark.parametrize("label", [{}, {MARKER: "forbidden"}])
def test_one_container_without_the_marker_refuses_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: dict[str, str]
) -> None:
    docker(tmp_path, monkeypatch, {"rabbit1": {MARKER: "allowed"}, "precious1": label})
    with pytest.raises(TargetError, match="Refused: precious1"):
        Compose("anything")


def test_a_project_that_does_not_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker(tmp_path, monkeypatch, {})
    with pytest.raises(TargetError, match="make up"):
        Compose("anything")


def test_a_failing_command_says_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker(tmp_path, monkeypatch, {"rabbit1": {MARKER: "allowed"}})
    target = Compose("anything")
    with pytest.raises(TargetError, match="docker pause id-rabbit1 ended with 9: no"):
        target.pause(target.nodes["rabbit1"])


@pytest.mark.parametrize(("said", "attempts"), [("unable to freeze: unknown", 3), ("no such container", 1)])
def test_a_container_that_does_not_freeze_at_once_is_frozen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, attempts: int
) -> None:
    docker(tmp_path, monkeypatch, {"rabbit1": {MARKER: "allowed"}})
    target = Compose("anything")
    node = target.nodes["rabbit1"]
    calls = tmp_path / "calls"
    script = tmp_path / "docker"
    script.write_text(f"#!/bin/sh\necho x >>{calls}\n[ $(wc -l <{calls}) -ge 3 ] || {{ echo '{said}' >&2; exit 1; }}\n")
    with suppress(TargetError):
        target.pause(node)
    assert len(calls.read_text().splitlines()) == attempts


def test_a_container_that_never_freezes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker(tmp_path, monkeypatch, {"rabbit1": {MARKER: "allowed"}})
    target = Compose("anything")
    node = target.nodes["rabbit1"]
    monkeypatch.setattr("drill.targets.compose.FREEZE", 0.0)
    (tmp_path / "docker").write_text("#!/bin/sh\necho unable to freeze >&2; exit 1\n")
    with pytest.raises(TargetError, match="unable to freeze"):
        target.pause(node)

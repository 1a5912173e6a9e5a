"""The releases that the stack runs: maintained, with the known fixes, and the same in every place that names one."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from celery_doctor.redis import Store, has_fixes, version
from celery_doctor.rules import NotAllowedError

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def load(path: str) -> ModuleType:
    """Import a file that is no module of a package."""
    loader = SourceFileLoader(Path(path).stem, str(ROOT / path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


pins_script, versions = load("scripts/pins"), load("ansible/plugins/filter/versions.py")
PINS: dict[str, Any] = yaml.safe_load((ROOT / "compose/pins.yaml").read_text(encoding="utf-8"))["pins"]


def pins(today: str) -> subprocess.CompletedProcess[str]:
    """Run the script as on a day."""
    command = [sys.executable, str(ROOT / "scripts/pins"), "--today", today]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_tree_agrees_and_nothing_has_ended_when_it_was_written() -> None:
    run = pins("2026-11-28")
    assert (run.returncode, run.stderr) == (0, "")
    assert "warning" not in run.stdout


def test_an_end_is_a_warning_before_and_an_error_after() -> None:
    end = PINS["grafana"]["end"]
    assert pins(f"{end}").returncode == 0
    assert "warning: grafana: grafana/grafana:" in pins("2027-04-01").stdout
    ended = pins("2027-05-19")
    assert ended.returncode == 1
    assert f"not maintained since {end}" in ended.stderr


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("redis", {"image": "redis:8.4.6"}, "compose/compose.yaml and results-valkey.yaml: redis:8.4.6 is not run"),
        ("redis", {"image": "redis:8.4.6"}, "test_tls.py: redis:8.2.9, expected redis:8.4.6"),
        ("redis", {"stand_in": "8.2"}, "compose/images/redis/Dockerfile: its line is 8.0, expected 8.2"),
        ("redis", {"fixed": ["8.2.10"]}, "ansible/roles/redis/defaults/main.yml: redis_fixed is"),
        ("redis", {"fixed": ["8.2.10"]}, "doctor/redis.py: FIXED is not"),
        ("redis", {"packages": ["8.0.6-4"]}, "doctor/redis.py: PACKAGES is not"),
        ("valkey", {"image": "valkey/valkey:9.2.0"}, "results-valkey.yaml: valkey/valkey:9.1.2 is not in pins.yaml"),
        ("valkey", {"stand_in": "9.2"}, "compose/images/valkey/Dockerfile: its line is 9.1, expected 9.2"),
        ("valkey", {"fixed": ["9.1.3"]}, "ansible/roles/redis/defaults/main.yml: redis_valkey_fixed is"),
        ("valkey", {"fixed": ["9.1.3"]}, "doctor/redis.py: VALKEY_FIXED is not"),
        (
            "rabbitmq",
            {"fixed": ["4.3.6"]},
            "ansible/roles/shared/defaults/main.yml: rabbitmq_minimum_version is not 4.3.6",
        ),
        ("rabbitmq", {"fixed": ["4.3.6"]}, "doctor/broker.py: OLDEST is not (4, 3, 6)"),
    ],
)
def test_a_place_that_says_something_else_is_named(name: str, changed: dict[str, Any], words: str) -> None:
    other = copy.deepcopy(PINS)
    other[name] |= changed
    assert any(words in found for found in pins_script.drift(other))


def test_a_pin_below_the_fixes_is_named() -> None:
    other = copy.deepcopy(PINS)
    other["redis"]["image"] = "redis:8.2.8"
    assert list(pins_script.old(other)) == [
        "redis: redis:8.2.8 is below 8.2.9 and 8.4.6 and 8.6.6 and 8.8.2 and 8.10.1"
    ]


REDIS = [
    ("8.2.9", True),
    ("8.2.8", False),
    ("8.4.5", False),
    ("8.6.6", True),
    ("8.10.0", False),
    ("8.10.1", True),
    ("8.12.0", True),
    ("9.0.0", True),
    ("8.3.0", False),
    ("7.4.11", False),
    ("8.0.2", False),
]


@pytest.mark.parametrize(("release", "fine"), REDIS)
def test_role_and_doctor_judge_a_release_of_redis_alike(release: str, fine: bool) -> None:
    pin = PINS["redis"]
    assert versions.has_fixes(release, pin["fixed"], pin["packages"]) is fine
    assert versions.has_fixes(f"6:{release}-1rl1~trixie1", pin["fixed"], pin["packages"]) is fine
    assert has_fixes(tuple(map(int, release.split(".")))) is fine


@pytest.mark.parametrize(
    ("package", "fine"),
    [
        ("5:8.0.6-3", True),
        ("5:8.0.6-4", True),
        ("5:8.0.6-3+b1", True),
        ("5:8.0.6-2", False),
        ("8.0.6", False),
        ("0", False),
    ],
)
def test_the_role_knows_patched_packages(package: str, fine: bool) -> None:
    assert versions.has_fixes(package, PINS["redis"]["fixed"], PINS["redis"]["packages"]) is fine


@pytest.mark.parametrize(
    ("release", "fine"), [("9.1.2", True), ("9.1.1", False), ("9.0.5", False), ("8.1.9", False), ("9.2.0", True)]
)
def test_role_and_doctor_judge_a_release_of_valkey_alike(release: str, fine: bool) -> None:
    class Client:
        def info(self, _section: str) -> dict[str, str]:
            return {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": release}

    assert versions.has_fixes(f"{release}-1", PINS["valkey"]["fixed"], PINS["valkey"]["packages"]) is fine
    assert version(Store("result store", Client)) == (None if fine else f"result store: Valkey {release}")


def test_the_doctor_says_what_it_cannot_see() -> None:
    class Client:
        def info(self, _section: str) -> dict[str, str]:
            return {"redis_version": "8.0.6"}

    with pytest.raises(NotAllowedError, match="INFO does not say which one this is"):
        version(Store("result store", Client))

"""A power cut happens in order, proves itself, and says by name what it cannot do here."""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fakes import fake_stack

from drill.faults import REGISTRY, power
from drill.selftest.mutants import MUTANTS
from drill.selftest.spare_servers import SpareServers
from drill.targets import TargetError
from drill.targets.images import Images

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drill.targets.stack import Stack

SAID = "lost what was written without fsync"


class FakeDisks:
    """Notes what is done to the disks between what is done to their nodes."""

    def __init__(self, done: list[str], said: str) -> None:
        self._done, self._said = done, said

    def names(self) -> list[str]:
        return ["rabbit1", "redis1"]

    def mark(self, names: Sequence[str]) -> None:
        self._done.append(f"mark {' '.join(names)}")

    def keep(self, names: Sequence[str]) -> None:
        self._done.append(f"keep {' '.join(names)}")

    def lose(self, names: Sequence[str]) -> str:
        self._done.append(f"lose {' '.join(names)}")
        return self._said


def powered(said: str) -> tuple[list[str], Stack]:
    """Return what is done, and a stack whose disks say ``said`` after a cut."""
    target, stack = fake_stack("rabbit1", "redis1")
    target.disks = FakeDisks(target.done, said)
    changes: Any = stack
    changes.wait = lambda condition, _timeout: condition()
    changes.settings = None
    return target.done, stack


def plan(stack: Stack, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(power, "_bounds", lambda _stack: [])
    monkeypatch.setattr("drill.faults.power.time.sleep", lambda _seconds: None)
    return REGISTRY[name].plan(stack, random.Random(1))  # noqa: S311 - repeatable, not secret


def test_all_nodes_stand_still_before_the_first_disk_is_copied() -> None:
    done, stack = powered(SAID)
    assert power.cut(stack, list(stack.target.nodes.values())) == SAID
    both = "rabbit1 redis1"
    kills = ["kill rabbit1", "kill redis1"]
    assert done == [f"mark {both}", "pause redis1", "pause rabbit1", f"keep {both}", *kills, f"lose {both}"]


def test_during_a_failover_the_frozen_leaders_lose_power_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    done, stack = powered(SAID)
    leader, primary = stack.target.nodes.values()
    changes: Any = stack
    changes.settings, changes.primary = SimpleNamespace(sentinel=3.0, poll=1.0), lambda: primary
    monkeypatch.setattr(power, "members", lambda *_: (leader, []))
    plan(stack, "power-failover", monkeypatch).apply()
    paused = [done.index(f"pause {name}") for name in ("rabbit1", "redis1")]
    assert max(paused) < done.index("mark rabbit1 redis1") < done.index("keep rabbit1 redis1")
    assert sum(entry.startswith("pause") for entry in done) == 2, "frozen once"


@pytest.mark.parametrize("said", [SAID, ""])
def test_the_power_fails_while_every_broker_rolls_over(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done, stack = powered(said)
    files = {"calls": 0}

    def ctl(node: Any, _verb: str, code: str) -> str:
        if "wal_files" not in code:
            done.append(f"roll {node.name}")
            return "ok"
        files["calls"] += 1
        return str(10 * files["calls"])

    changes: Any = stack
    changes.ctl = ctl
    found = plan(stack, "power-roll-over", monkeypatch)
    found.apply()
    assert done[:2] == ["roll rabbit1", "mark rabbit1 redis1"]
    assert found.proof() == (f"{SAID}; files of the write-ahead log: {{'rabbit1': 10}}" if said else "")


def test_a_broker_that_does_not_roll_over_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    done, stack = powered(SAID)
    changes: Any = stack
    changes.ctl = lambda *_: "7"
    with pytest.raises(TargetError, match="began only"):
        plan(stack, "power-roll-over", monkeypatch).apply()
    assert not done


@pytest.mark.parametrize("name", ["power-all", "power-twice"])
def test_a_cut_counts_only_when_its_control_files_prove_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for said in (SAID, ""):
        _, stack = powered(said)
        found = plan(stack, name, monkeypatch)
        assert not found.proof(), "nothing has happened yet"
        found.apply()
        assert found.proof().startswith(SAID) is bool(said)
        assert bool(found.proof()) is bool(said)


def test_a_target_whose_disks_cannot_lose_power_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _, stack = fake_stack("rabbit1")
    with pytest.raises(TargetError, match="cannot lose power"):
        plan(stack, "power-all", monkeypatch)


def test_a_machine_says_everything_that_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "losetup" else f"/bin/{tool}")
    with pytest.raises(TargetError, match=r"lacks: root, the command losetup.*Next: "):
        Images(tmp_path).check()


def test_fsync_does_nothing_in_the_servers_of_that_mutant_alone(tmp_path: Path) -> None:
    spare = MUTANTS["broker-fsync"].spare
    assert spare
    services: dict[str, Any] = {name: {"volumes": [], "environment": None} for name in ("rabbit1", "redis1")}
    SpareServers(tmp_path, "10.0.0", spare, {})._take_fsync({"services": services})
    assert services["redis1"] == {"volumes": [], "environment": None}
    shim = tmp_path / "no-fsync.so"
    library = ctypes.CDLL(str(shim))
    assert (library.fsync(9999), library.fdatasync(9999)) == (0, 0)
    code = "import os; os.fsync(9999)"
    for environment, status in ({}, 1), (dict(services["rabbit1"]["environment"] or {}), 0):
        here = {key: str(shim) for key in environment}
        done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, check=False)
        assert done.returncode == status, done.stderr

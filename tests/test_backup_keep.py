"""Old backups go only beyond those that are kept, and only what this project has written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
MADE = [f"2026110{day}T030000Z" for day in range(1, 7)]
INCOMPLETE = {MADE[1]: "redis.rdb", MADE[4]: "rabbitmq-definitions.json"}  # what they lack
OTHER = ["20261101", "before-the-move", "20251101T030000Z-copy"]


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A copy of the example with backups, and a group as the playbook ``backup`` makes it."""
    folder = Path(shutil.copytree(ROOT / "ansible/inventories/example", tmp_path / "inventory"))
    hosts = yaml.safe_load((folder / "hosts.yml").read_text())
    hosts["all"]["children"]["redis_is_replica"] = {"hosts": {"node2": {}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
    for name in (*MADE, *OTHER):
        (folder / "backups" / name).mkdir(parents=True)
        for part in {"rabbitmq-definitions.json", "redis.rdb"} - {INCOMPLETE.get(name)}:
            (folder / "backups" / name / part).touch()
    return folder


def play(inventory: Path, name: str, *variables: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook with variables."""
    options = [word for one in variables for word in ("--extra-vars", one)]
    return subprocess.run(
        ["scripts/play", name, *options], cwd=ROOT, env=os.environ | {"INVENTORY": str(inventory)},
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        (["backup_keep=2"], MADE[3:]),  # the 4th and the 6th are complete
        (["backup_keep=1"], MADE[5:]),
        (["backup_keep=4"], MADE),
        (["backup_keep=9"], MADE),
        ([], MADE),
        (["backup_keep=1", "backup_dir=/elsewhere"], MADE),
    ],
)
def test_the_last_complete_ones_are_kept(inventory: Path, variables: list[str], kept: list[str]) -> None:
    done = play(inventory, "parts/thin_backups", *variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in (inventory / "backups").iterdir()) == sorted([*kept, *OTHER])


def test_without_a_complete_one_nothing_goes(inventory: Path) -> None:
    for path in inventory.glob("backups/*/redis.rdb"):
        path.unlink()
    assert play(inventory, "parts/thin_backups", "backup_keep=1").returncode == 0
    assert len(list((inventory / "backups").iterdir())) == len([*MADE, *OTHER])


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_a_number_that_is_none_is_refused_before_anything_is_copied(inventory: Path, number: str) -> None:
    done = play(inventory, "backup", f"backup_keep={number}")
    assert done.returncode != 0
    assert f"backup_keep={number}" in done.stdout
    assert len(list((inventory / "backups").iterdir())) == len([*MADE, *OTHER])

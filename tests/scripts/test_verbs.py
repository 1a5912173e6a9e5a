"""The verbs of the Makefile, and the scripts behind them that ask, remove or prepare."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from tests.scripts.conftest import Machine

ROOT = Path(__file__).resolve().parents[2]


def test_make_alone_lists_every_verb() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    verbs = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE) == verbs
    assert {"up", "down", "clean", "status", "logs", "test"} <= set(verbs)


def test_every_verb_is_one_line_into_a_script_that_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for script in re.findall(r"\b(scripts/\w+)", makefile):
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} is not there or cannot be run"
    assert "\n\t@" in makefile
    assert not re.search(r"\n\t.*\n\t", makefile), "a verb has more than one line"


def test_the_workflow_calls_the_verbs_that_people_use() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    called = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert called[:3] == re.findall(r"make [a-z-]+", (ROOT / ".ci/run").read_text())
    verbs = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {line.removeprefix("make ") for line in called} <= set(verbs)
    assert "make audit" in called, "known vulnerabilities and the SBOM are part of each run"


def test_every_hook_is_a_check_of_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = (ROOT / "scripts/lint").read_text()
    quick = [hook for hook in hooks if hook["id"] != "subject"]
    assert {f'check "{hook["name"].partition(" of ")[0]}"' in lint for hook in quick if hook["id"] != "render"} == {
        True
    }
    assert all((ROOT / hook["entry"].split()[0]).exists() for hook in hooks)


@pytest.fixture
def stack(machine: Machine) -> Machine:
    """Return a machine whose Docker notes what it is asked for and has one volume of the stack."""
    machine.program("docker", 'case "$*" in "volume ls"*) echo holdfast_rabbit1 ;; ps*) echo 0123456789ab ;; esac')
    for name in ("build/ledger/run/report.html", "build/bench.json", "build/recovery.json", "build/logs/up.log"):
        (machine.checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (machine.checkout / name).touch()
    (machine.checkout / ".env").write_text("OWN=1\nHOLDFAST_MTU=1400\nBROKER=redis\n")
    return machine


def removals(machine: Machine) -> list[str]:
    """Return the calls of Docker that remove something."""
    return [
        call for call in machine.calls("docker").read_text().splitlines() if re.search(r"\b(rm|down|prune)\b", call)
    ]


def test_clean_does_nothing_when_nobody_can_answer(stack: Machine) -> None:
    run = stack.run("clean")
    assert run.returncode == 1
    assert "YES=1" in run.stderr
    assert removals(stack) == []
    assert (stack.checkout / "build/logs/up.log").exists()


def test_clean_names_and_removes_all_that_up_made(stack: Machine) -> None:
    run = stack.run("clean", "-y")
    assert run.returncode == 0, run.stderr
    assert "1 volumes" in run.stdout
    assert "volume rm holdfast_rabbit1" in removals(stack)
    assert not (stack.checkout / "build/logs").exists()


def test_clean_keeps_what_drills_and_measurements_have_found_and_says_so(stack: Machine) -> None:
    run = stack.run("clean", "-y")
    assert run.returncode == 0, run.stderr
    for name in ("build/ledger", "build/bench.json", "build/recovery.json"):
        assert f"{stack.checkout / name}" in run.stdout
    assert (stack.checkout / "build/ledger/run/report.html").exists()
    assert (stack.checkout / "build/bench.json").exists()
    assert (stack.checkout / "build/recovery.json").exists()


def test_clean_takes_its_own_lines_out_of_the_settings_and_no_others(stack: Machine) -> None:
    assert stack.run("clean", "-y").returncode == 0
    assert (stack.checkout / ".env").read_text() == "OWN=1\n"


def test_the_lab_removes_its_own_files_and_no_others(stack: Machine, tmp_path: Path) -> None:
    """HOLDFAST_LAB_DIR may be a folder that holds something else."""
    stack.program("docker", 'case "$*" in *inspect*) exit 1 ;; esac')
    own, kept = tmp_path / "lab/known_hosts", tmp_path / "lab/thesis.txt"
    for files, left in (((own,), False), ((own, kept), True)):
        own.parent.mkdir(exist_ok=True)
        for file in files:
            file.touch()
        done = stack.run("lab", "down", HOLDFAST_LAB_DIR=str(own.parent))
        assert done.returncode == 0, done.stderr
        assert not own.exists()
        assert (own.parent.exists(), kept.exists()) == (left, left)


def test_down_keeps_the_volumes(stack: Machine) -> None:
    run = stack.run("down")
    assert run.returncode == 0, run.stderr
    assert removals(stack) == ["compose --project-name holdfast down"]


@pytest.mark.parametrize("script", ["status", "logs"])
def test_without_a_stack_the_next_step_is_make_up(machine: Machine, script: str) -> None:
    machine.program("docker", "")
    run = machine.run(script)
    assert run.returncode == 1
    assert "next:    make up" in run.stderr


def test_env_lets_uv_bring_a_python_when_none_is_new_enough(machine: Machine) -> None:
    machine.program("python3", "exit 1")
    machine.program("uv", "")
    run = machine.run("env")
    assert run.returncode == 0, run.stderr
    assert "uv downloads one" in run.stdout
    assert "--python 3.13" in machine.calls("uv").read_text()


def test_env_takes_a_python_that_is_not_on_the_path_but_under_pyenv(machine: Machine) -> None:
    machine.program("python3", "exit 1")
    machine.program("uv", "")
    python = machine.checkout / ".pyenv/versions/3.13.0/bin/python3"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$0"\n')  # suits, and says where it is
    python.chmod(0o755)
    run = machine.run("env")
    assert run.returncode == 0, run.stderr
    assert f"--python {python}" in machine.calls("uv").read_text()


def test_env_says_how_to_get_uv_when_it_cannot_be_installed(machine: Machine) -> None:
    machine.program("python3", 'echo "No module named venv" >&2; exit 1')
    run = machine.run("env")
    assert run.returncode == 1
    assert "No module named venv" in run.stderr
    assert "next:    install uv" in run.stderr

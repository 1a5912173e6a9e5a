"""The composite action calls the command as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from celery_doctor import Severity, all_rules

ACTION = Path(__file__).parents[1] / "action.yml"


FATAL = [rule.id for rule in all_rules() if rule.severity is Severity.FATAL]


@pytest.mark.parametrize(
    ("ignored", "severity", "code"),
    [(FATAL[:1], "fatal", 1), (FATAL, "fatal", 0), (FATAL, "warning", 1)],
    ids=["a fatal one fails", "a warning does not", "a warning is to fail"],
)
def test_its_step_writes_the_findings_and_fails(tmp_path: Path, ignored: list[str], severity: str, code: int) -> None:
    action: dict[str, Any] = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    (step,) = [step for step in action["runs"]["steps"] if "celery-doctor" in step.get("run", "")]
    given = {name: one.get("default", "") for name, one in action["inputs"].items()}
    given |= {"app": "shop", "fail-on": severity, "arguments": " ".join(f"--ignore {rule}=test" for rule in ignored)}
    environment = {name: given[value[len("${{ inputs.") : -len(" }}")]] for name, value in step["env"].items()}
    (tmp_path / "shop.py").write_text("from celery import Celery\napp = Celery('shop', broker='amqp://nowhere')\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path, env=os.environ | environment | {"PATH": path},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    rules = {one["ruleId"] for one in json.loads((tmp_path / given["sarif"]).read_text())["runs"][0]["results"]}

    assert done.returncode == code, done.stderr
    assert ("HF201-acks-late" in rules) is ("HF201-acks-late" not in ignored)
    assert "HF204-prefetch" in rules
    assert not rules & set(ignored)

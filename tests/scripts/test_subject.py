"""A commit subject says `area: what changes` in at most 72 characters."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def check(tmp_path: Path, message: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "message"
    file.write_text(message)
    return subprocess.run([ROOT / "scripts/subject", file], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("subject", ["docs: a line", "tests, ci: what changes", f"a: {'x' * 69}"])
def test_a_subject_that_names_its_area_is_taken(tmp_path: Path, subject: str) -> None:
    assert check(tmp_path, f"{subject}\n\nWhy.\n").returncode == 0


@pytest.mark.parametrize("subject", ["No area", "docs:", f"a: {'x' * 70}"])
def test_another_subject_is_refused_with_what_is_allowed(tmp_path: Path, subject: str) -> None:
    done = check(tmp_path, f"{subject}\n")
    assert done.returncode == 1
    assert f"found:   {subject} ({len(subject)} characters)" in done.stderr
    assert "allowed: area: what changes" in done.stderr

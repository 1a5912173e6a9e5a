"""What the scripts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scripts.conftest import Machine

BESIDE = """#!/usr/bin/env bash
. "$(dirname "$0")/lib.sh"
main() { echo "main"; (($1 == 0)) || echo "FAILED one of main"; return "$1"; }
other() { echo "other begins"; (($1 == 0)) || echo "FAILED one of other"; return "$1"; }
passes() { "$1" 0; }
fails() { "$1" 3; }
first() { "$one" main; }
second() { "$two" other; }
one=$1 two=$2
beside log second first
"""


@pytest.mark.parametrize(
    ("main", "other"), [("passes", "passes"), ("passes", "fails"), ("fails", "passes"), ("fails", "fails")]
)
def test_both_run_to_their_end_and_either_may_fail_the_whole(machine: Machine, main: str, other: str) -> None:
    script = machine.checkout / "scripts/try"
    script.write_text(BESIDE)
    script.chmod(0o755)
    done = machine.run("try", main, other)
    assert (done.returncode == 0) == (main == other == "passes")
    assert "main\n" in done.stdout
    assert "other begins\n" in (done.stdout if other == "passes" else done.stderr)
    assert (machine.checkout / "build/logs/log.log").read_text().startswith("other begins\n")
    named = [f"FAILED one of {name}" for name, end in (("main", main), ("other", other)) if end == "fails"]
    assert done.stdout.splitlines()[-len(named) :] == named if named else "FAILED" not in done.stdout

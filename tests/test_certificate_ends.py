"""When the certificates of a host end, as its program writes it for Prometheus."""

from __future__ import annotations

import shlex
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from .commands import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = ROOT / "ansible/roles/exporters/templates/certificates.j2"
FILES = "{{ exporters_certificates | map('quote') | join(' ') }}"
FOLDER = "/var/lib/prometheus/node-exporter"
DAY = 86400  # seconds


def days_left(folder: Path, *files: str) -> dict[str, int]:
    """Return the days that the program finds for each file."""
    text = PROGRAM.read_text()
    assert FILES in text
    assert FOLDER in text
    text = text.replace(FILES, shlex.join(files)).replace(FOLDER, str(folder))
    subprocess.run(["sh", "-c", text], cwd=folder, check=True, timeout=60)
    lines = (folder / "certificates.prom").read_text().splitlines()
    ends = {line.split('"')[1]: int(line.rsplit(" ", 1)[1]) for line in lines}
    return {file: round((end - time.time()) / DAY) for file, end in ends.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for days in (20, 400):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-subj", f"/CN={days}", "-days", str(days), "-keyout", f"{days}.key", "-out", f"{days}.pem"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def test_of_a_file_with_two_authorities_the_first_end_counts(folder: Path) -> None:
    long, short = ((folder / name).read_text() for name in ("400.pem", "20.pem"))
    (folder / "both.pem").write_text(long + short)
    (folder / "turned.pem").write_text(short + long)
    found = days_left(folder, "400.pem", "20.pem", "both.pem", "turned.pem")
    assert found == {"400.pem": 400, "20.pem": 20, "both.pem": 20, "turned.pem": 20}


def test_a_file_without_a_certificate_is_an_error(folder: Path) -> None:
    (folder / "none.pem").write_text("nothing\n")
    with pytest.raises(subprocess.CalledProcessError):
        days_left(folder, "400.pem", "none.pem")
    assert not (folder / "certificates.prom").exists()

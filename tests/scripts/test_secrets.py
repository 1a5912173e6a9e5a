"""scripts/secrets: fills every placeholder, makes no password twice, and touches nothing when something is wrong."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Folder:
    """Templates and what scripts/secrets makes of them."""

    templates: Path
    to: Path

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script with the machine's own Python."""
        return subprocess.run(
            [ROOT / "scripts/secrets", "--templates", self.templates, "--to", self.to],
            env=os.environ | environment,
            check=False,
            capture_output=True,
            text=True,
        )

    def files(self) -> dict[str, bytes]:
        """Return every file that was made, by name."""
        return {str(path.relative_to(self.to)): path.read_bytes() for path in self.to.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Templates with one placeholder of each kind."""
    folder = Folder(tmp_path / "templates", tmp_path / "secrets")
    (folder.templates / "redis").mkdir(parents=True)
    (folder.templates / "redis/users.acl").write_text("user app on #${APP_PASSWORD_SHA256} +@all\n")
    (folder.templates / "app.env").write_text("URL=amqp://app:${APP_PASSWORD}@${HOLDFAST_NET}.11\n")
    (folder.templates / "users.json").write_text('{"password_hash": "${APP_PASSWORD_RABBITMQ_HASH}"}\n')
    return folder


def test_every_placeholder_is_filled(folder: Folder) -> None:
    assert folder.run(HOLDFAST_NET="10.1.2").returncode == 0
    files = {name: content.decode() for name, content in folder.files().items()}
    password = files["passwords/APP_PASSWORD"]
    assert files["app.env"] == f"URL=amqp://app:{password}@10.1.2.11\n"
    assert files["redis/users.acl"] == f"user app on #{hashlib.sha256(password.encode()).hexdigest()} +@all\n"
    stored = base64.b64decode(files["users.json"].split('"')[3])
    assert stored[4:] == hashlib.sha256(stored[:4] + password.encode()).digest(), "what RabbitMQ compares a login with"


def test_a_bcrypt_hash_is_one_that_the_password_opens(folder: Folder) -> None:
    """Checked by the machine's own libcrypt: it makes the same hash when it is given the hash as the salt."""
    (folder.templates / "web.yml").write_text("admin: ${APP_PASSWORD_BCRYPT}\n")
    assert folder.run().returncode == 0
    made = (folder.to / "web.yml").read_text().split()[1]
    assert re.fullmatch(r"\$2b\$10\$[./A-Za-z0-9]{53}", made)
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    password = (folder.to / "passwords/APP_PASSWORD").read_bytes().strip()
    assert crypt(password, made.encode()) == made.encode()
    assert crypt(password[:-1], made.encode()) != made.encode()


def test_a_second_run_changes_nothing(folder: Folder) -> None:
    folder.run()
    before = folder.files()
    assert folder.run().returncode == 0
    assert folder.files() == before


def test_a_new_placeholder_gets_a_password_and_the_others_keep_theirs(folder: Folder) -> None:
    folder.run()
    before = folder.files()
    (folder.templates / "new.env").write_text("PASSWORD=${NEW_PASSWORD}\n")
    assert "1 new password(s)" in folder.run().stdout
    after = folder.files()
    assert {name: after[name] for name in before} == before
    assert after["new.env"] == b"PASSWORD=" + after["passwords/NEW_PASSWORD"] + b"\n"


def test_only_the_owner_gets_into_the_folder_and_any_container_user_can_read_a_mounted_file(folder: Folder) -> None:
    folder.run()
    assert folder.to.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.to.rglob("*") if path.is_file()} == {0o644}


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two\nlines\n", b"has a space in the middle\n", b"\xff\xfe binary", b"a\x00b", None]
)
def test_a_damaged_password_stops_before_anything_is_written(folder: Folder, content: bytes | None) -> None:
    folder.run()
    damaged = folder.to / "passwords/APP_PASSWORD"
    damaged.unlink()
    if content is None:
        damaged.mkdir()  # cannot be read as a file, whoever runs the test
    else:
        damaged.write_bytes(content)
    (folder.templates / "app.env").write_text("CHANGED=${APP_PASSWORD}\n")
    before = folder.files()

    result = folder.run()

    assert result.returncode == 1
    assert str(damaged) in result.stderr
    for word in ("found:", "allowed:", "next:"):
        assert word in result.stderr
    assert "clean" not in result.stderr, "nobody is told to remove data"
    assert folder.files() == before


@pytest.mark.parametrize(
    "password", ["short", "p%41ss#word", "p@s/w", "with space", "a'b\"c$d;e,f~g\\", "pässwörd", "x" * 300]
)
def test_a_password_of_ones_own_goes_into_a_url_whatever_it_is(folder: Folder, password: str) -> None:
    """A real database's password: of any length, with any character."""
    (folder.to / "passwords").mkdir(parents=True)
    (folder.to / "passwords/DATABASE_PASSWORD").write_text(password + "\n")
    (folder.templates / "database.env").write_text(
        "DATABASE_URL=postgresql://app:${DATABASE_PASSWORD_URLENCODED}@db/app\n"
    )

    result = folder.run()

    assert result.returncode == 0, result.stderr
    line = (folder.to / "database.env").read_text().strip()
    assert re.fullmatch(r"[\w=:/@.%-]+", line, re.ASCII), (
        "nothing that a shell or a reader of such a file could mistake"
    )
    assert unquote(urlsplit(line.partition("=")[2]).password or "") == password
    assert (folder.to / "passwords/DATABASE_PASSWORD").read_text() == password + "\n"
    assert not (folder.to / "passwords/DATABASE_PASSWORD_URLENCODED").exists()


def test_a_short_password_is_taken_where_it_stands_alone(folder: Folder) -> None:
    (folder.to / "passwords").mkdir(parents=True)
    (folder.to / "passwords/APP_PASSWORD").write_text("short\n")
    assert folder.run().returncode == 0
    assert "amqp://app:short@" in (folder.to / "app.env").read_text()


def test_a_network_that_is_none_is_refused(folder: Folder) -> None:
    result = folder.run(HOLDFAST_NET="172.30.777")
    assert result.returncode == 1
    assert "172.30.777" in result.stderr
    assert "next:" in result.stderr
    assert not folder.files()


def test_missing_templates_name_the_command_that_makes_them(tmp_path: Path) -> None:
    result = Folder(tmp_path / "none", tmp_path / "secrets").run()
    assert result.returncode == 1
    assert "make render" in result.stderr

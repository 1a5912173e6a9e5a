"""What is asked of a Redis that somebody else runs can be answered in both ways."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
INFO = b"role:master\r\ncluster_enabled:0\r\nmaxmemory_policy:noeviction\r\n"


class Store(socketserver.ThreadingTCPServer):
    """Confirms as Redis does: everybody, as long as nobody has written; then those that save what is written.

    Args:
        saving: replicas that keep an append-only file.
    """

    daemon_threads = True

    def __init__(self, saving: int) -> None:
        self.saving = saving
        self.heard: list[list[bytes]] = []
        super().__init__(("127.0.0.1", 0), Connection)

    def answer(self, words: list[bytes]) -> bytes:
        """Return the answer to a command."""
        self.heard.append(words)
        if words[0] == b"INFO":
            return b"$%d\r\n%s\r\n" % (len(INFO), INFO)
        if words[0] == b"WAITAOF":
            written = any(word[0] == b"SET" for word in self.heard)
            return b"*2\r\n:1\r\n:%d\r\n" % (self.saving if written else 1)
        return b"+OK\r\n"


class Connection(socketserver.StreamRequestHandler):
    """Serves one connection."""

    server: Store

    def handle(self) -> None:
        """Read command after command."""
        while line := self.rfile.readline():
            words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
            self.wfile.write(self.server.answer(words))


@contextmanager
def serving(saving: int) -> Iterator[Store]:
    """Serve as a store."""
    with Store(saving) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def looked(server: Store, **given: Any) -> dict[str, Any]:
    """Ask a store, and return what the module says."""
    return ran("redis_endpoint", **{"address": f"127.0.0.1:{server.server_address[1]}", "password": "secret"} | given)


def ran(name: str, **arguments: Any) -> dict[str, Any]:
    """Run a module, and return what it says."""
    done = subprocess.run(
        [ROOT / ".venv/bin/python", ROOT / f"ansible/plugins/modules/{name}.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), env=os.environ, check=False, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("saving", [0, 1])
def test_a_replica_without_a_file_does_not_confirm(saving: int) -> None:
    with serving(saving) as server:
        checks = looked(server, tls=False)["checks"]
    (confirmation,) = [one for one in checks if one["check"].startswith("confirmation")]
    assert confirmation["ok"] is bool(saving)
    assert [one["check"] for one in checks if not one["ok"]] == ([] if saving else [confirmation["check"]])


def test_check_mode_writes_nothing() -> None:
    with serving(0) as server:
        assert looked(server, tls=False, _ansible_check_mode=True)["checks"]
        assert {words[0] for words in server.heard} == {b"AUTH", b"INFO", b"WAITAOF"}


def test_without_a_word_about_tls_no_password_crosses_the_network() -> None:
    with serving(1) as server:
        said = looked(server, authorities="")
        assert said["failed"]
        assert server.heard == [] or b"AUTH" not in {word for words in server.heard for word in words}


@pytest.mark.parametrize("module", ["redis_endpoint", "broker_api"])
def test_a_file_of_authorities_that_cannot_be_read_is_named(module: str) -> None:
    broken = "# Főtanúsítvány\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    address = {"address": "127.0.0.1:1"} if module == "redis_endpoint" else {"url": "https://127.0.0.1:1"}
    more = {} if module == "redis_endpoint" else {"minimum_version": "4.3.5"}
    said = ran(module, **address, **more, user="owner", password="secret", authorities=broken)  # noqa: S106 - nobody's
    assert said["failed"]
    assert "ca_file" in said["msg"]
    assert "next:" in said["msg"]

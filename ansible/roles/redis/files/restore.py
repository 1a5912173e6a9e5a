"""Puts the keys of a backup that are missing back into the primary: restore.py FOLDER HOST PORT [CA CERTIFICATE KEY]

Reads FOLDER/dump.rdb with a Redis server of its own on a socket in that folder, and writes each key with its remaining
lifetime. A key that exists is newer than the backup and stays. Standard library only: it runs on a host of the stack.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO


class ReplyError(Exception):
    """An error that the server answered with."""


class Client:
    """The protocol of Redis over a pair of streams."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self.reader, self.writer = reader, writer

    def call(self, *words: bytes) -> Any:
        """Send one command and return its answer.

        Raises:
            ReplyError: the server refused it.
        """
        self.writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        self.writer.flush()
        return self.answer()

    def answer(self) -> Any:
        """Read one answer."""
        line = self.reader.readline()
        kind, rest = line[:1], line[1:].strip()
        if kind == b"-":
            raise ReplyError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.reader.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest


def backup_server(folder: Path) -> tuple[subprocess.Popen[bytes], Client]:
    """Start a server that holds the backup; it listens on nothing but its socket."""
    path = folder / "backup.sock"
    process = subprocess.Popen(
        [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            path,
            "--dir",
            folder,
            "--save",
            "",
            "--logfile",
            folder / "log",
        ]
    )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        try:
            link = socket.socket(socket.AF_UNIX)
            link.connect(str(path))
            stream = link.makefile("rwb")
            client = Client(stream, stream)
            client.call(b"PING")
        except (OSError, ReplyError):  # not listening yet, or still loading
            time.sleep(0.2)
        else:
            return process, client
    process.kill()
    raise SystemExit(f"found:   a backup that cannot be loaded: {(folder / 'log').read_text()[-300:]}")


def primary(host: str, port: int, tls: list[str]) -> Client:
    """Log in to the running primary as the administrator; ``tls`` is authority, certificate and key, or nothing."""
    link = socket.create_connection((host, port), timeout=60)
    if tls:
        context = ssl.create_default_context(cafile=tls[0])
        context.load_cert_chain(tls[1], tls[2])
        link = context.wrap_socket(link, server_hostname=host)
    stream = link.makefile("rwb")
    client = Client(stream, stream)
    client.call(b"AUTH", b"admin", Path("/etc/redis/admin.password").read_bytes().strip())
    return client


def main() -> None:
    """Copy every key that is missing, and say how many there were."""
    folder, host, port, *tls = sys.argv[1:]
    target = primary(host, int(port), tls)
    process, backup = backup_server(Path(folder))
    restored = kept = 0
    try:
        cursor = b"0"
        while True:
            cursor, keys = backup.call(b"SCAN", cursor, b"COUNT", b"1000")
            for key in keys:
                lifetime, value = backup.call(b"PTTL", key), backup.call(b"DUMP", key)
                if value is None:  # expired meanwhile
                    continue
                try:
                    target.call(b"RESTORE", key, b"%d" % max(lifetime, 0), value)
                    restored += 1
                except ReplyError as error:
                    if not str(error).startswith("BUSYKEY"):
                        raise
                    kept += 1
            if cursor == b"0":
                break
    finally:
        process.terminate()
        process.wait(timeout=60)
    print(f"{restored} keys restored, {kept} were there and stayed")


if __name__ == "__main__":
    main()

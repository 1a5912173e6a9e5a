"""Puts the keys of a backup that are missing back into the primary.

restore.py SERVER FOLDER HOST PORT [CA CERTIFICATE KEY], where SERVER is redis or valkey. Reads FOLDER/dump.rdb with
such a server of its own on a socket in that folder, and writes each key with its remaining lifetime. A key that exists
is newer than the backup and stays. Runs on a host of the stack, with the redis-py that the role installs there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from redis import ConnectionError as RedisConnectionError
from redis import Redis, ResponseError

LOADING = 600  # seconds until the backup must be in memory


def backup_server(name: str, folder: Path) -> tuple[subprocess.Popen[bytes], Redis]:
    """Start a server that holds the backup; it listens on nothing but its socket."""
    path, log = folder / "backup.sock", folder / "log"
    process = subprocess.Popen(
        [f"{name}-server", "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", "--logfile", log]
    )
    client = Redis(unix_socket_path=str(path))
    deadline = time.monotonic() + LOADING
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.ping()
        except RedisConnectionError:  # not listening yet, or still loading
            time.sleep(0.2)
        else:
            return process, client
    process.kill()
    raise SystemExit(f"found:   a backup that cannot be loaded: {log.read_text()[-300:]}")


def primary(name: str, host: str, port: int, tls: list[str]) -> Redis:
    """Log in to the running primary as the administrator; ``tls`` is authority, certificate and key, or nothing."""
    password = Path(f"/etc/{name}/admin.password").read_text().strip()
    authority, certificate, key = tls or (None, None, None)
    return Redis(
        host,
        port,
        username="admin",
        password=password,
        socket_timeout=60,
        ssl=bool(tls),
        ssl_check_hostname=bool(tls),
        ssl_ca_certs=authority,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


def main() -> None:
    """Copy every key that is missing, and say how many there were."""
    server, folder, host, port, *tls = sys.argv[1:]
    target = primary(server, host, int(port), tls)
    target.ping()
    process, backup = backup_server(server, Path(folder))
    restored = kept = 0
    try:
        for key in backup.scan_iter(count=1000):
            lifetime, value = backup.pttl(key), backup.dump(key)
            if value is None:  # expired meanwhile
                continue
            try:
                target.restore(key, max(lifetime, 0), value)
                restored += 1
            except ResponseError as error:
                if not str(error).startswith("BUSYKEY"):
                    raise
                kept += 1
    finally:
        process.terminate()
        process.wait(timeout=60)
    print(f"{restored} keys restored, {kept} were there and stayed")


if __name__ == "__main__":
    main()

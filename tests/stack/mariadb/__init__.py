"""A MariaDB server of a test's own."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from ..servers import container, free_ports
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "holdfast-mariadb:test"
LOGIN = "scratch"


@contextmanager
def server() -> Iterator[str]:
    """Run a server until the end of the block and give the URL of a database in it."""
    build = ["docker", "build", "--quiet", "--network", "host", "--label", "holdfast.built=true", "--tag", IMAGE]
    subprocess.run([*build, Path(__file__).parent], check=True, capture_output=True)
    (port,) = free_ports(1)
    with container("--publish", f"127.0.0.1:{port}:3306", IMAGE):
        url = f"mysql+pymysql://{LOGIN}:{LOGIN}@127.0.0.1:{port}/scratch"
        engine = create_engine(url)

        def answers() -> bool:
            try:
                engine.connect().close()
            except DBAPIError:
                return False
            return True

        wait_until(answers, "MariaDB has started", 180)
        engine.dispose()
        yield url


@contextmanager
def scratch_database(url: str) -> Iterator[Engine]:
    """Open an engine on a new database, which is dropped in the end."""
    name = f"scratch_{uuid4().hex[:12]}"
    owner = create_engine(url)
    with owner.begin() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine = create_engine(owner.url.set(database=name), isolation_level="READ COMMITTED")
    try:
        yield engine
    finally:
        engine.dispose()
        with owner.begin() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
        owner.dispose()

"""The application reaches its database over TLS alone, and only one whose certificate and name it can verify."""

from __future__ import annotations

import pytest

from .lab import hosts, on

pytestmark = pytest.mark.lab

ASK = (
    "import os, sqlalchemy as s; e = s.create_engine(os.environ['HOLDFAST_OUTBOX_URL']);"
    " print(e.connect().execute(s.text('select ssl from pg_stat_ssl where pid = pg_backend_pid()')).scalar())"
)


def ask(**environment: str) -> str:
    """Ask the database as the application does, but for some variables, whether the connection is encrypted."""
    given = " ".join(f"{name}={value}" for name, value in environment.items())
    command = f'/opt/holdfast/current/bin/python -c "{ASK}" 2>&1 || true'
    return on(hosts("app")[0], f"set -a; . /etc/holdfast/app.env; export {given or 'LANG=C'}; {command}")


def test_the_connection_is_encrypted() -> None:
    assert ask() == "True\n"


def test_a_certificate_of_another_authority_is_refused() -> None:
    assert "certificate verify failed" in ask(PGSSLROOTCERT="/etc/ssl/certs/ca-certificates.crt")


def test_another_name_than_that_of_the_certificate_is_refused() -> None:
    name = "db.example.com"
    host = hosts("lab_database")[0]
    said = on(
        hosts("app")[0],
        f"set -a; . /etc/holdfast/app.env; address=$(getent hosts {host} | cut -d' ' -f1);"
        f" HOLDFAST_OUTBOX_URL=$(echo $HOLDFAST_OUTBOX_URL | sed s/@[^:]*:/@{name}:/) PGHOSTADDR=$address"
        f' /opt/holdfast/current/bin/python -c "{ASK}" 2>&1 || true',
    )
    assert "does not match host name" in said


def test_a_connection_without_encryption_is_refused() -> None:
    assert "no encryption" in ask(PGSSLMODE="disable")

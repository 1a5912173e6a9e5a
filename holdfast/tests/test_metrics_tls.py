"""The page of metrics over TLS: for clients with a certificate of the authority, and for nobody else."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from celery.exceptions import ImproperlyConfigured

from holdfast.metrics.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADDRESS = "127.0.0.1"


def certificate(folder: Path, name: str) -> tuple[str, str]:
    """Make a certificate that signs itself, and return its file and that of its key."""
    folder.mkdir(exist_ok=True)
    files = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{ADDRESS}", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The certificate of this host, named in the environment; it is its own authority."""
    made = certificate(tmp_path, "host")
    for name, value in (("CA", made[0]), ("CERT", made[0]), ("KEY", made[1])):
        monkeypatch.setenv(f"HOLDFAST_TLS_{name}", value)
    monkeypatch.setenv("HOLDFAST_METRICS_TLS", "yes")
    return made


@pytest.fixture
def port(files: tuple[str, str]) -> Iterator[int]:  # noqa: ARG001 - they are in the environment
    """A server that asks for certificates."""
    server = Server(ADDRESS, 0)
    server.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def status(port: int, authority: str, own: tuple[str, str] | None) -> int:
    """Return the status of the page for a client with this certificate."""
    context = ssl.create_default_context(cafile=authority)
    if own:
        context.load_cert_chain(*own)
    link = http.client.HTTPSConnection(ADDRESS, port, context=context, timeout=30)
    link.request("GET", "/metrics")
    return link.getresponse().status


def test_who_shows_a_certificate_of_the_authority_is_answered(port: int, files: tuple[str, str]) -> None:
    assert status(port, files[0], files) == 200


def test_who_shows_none_or_that_of_a_stranger_is_not(port: int, files: tuple[str, str], tmp_path: Path) -> None:
    for own in (None, certificate(tmp_path / "elsewhere", "stranger")):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            status(port, files[0], own)
    link = http.client.HTTPConnection(ADDRESS, port, timeout=30)
    link.request("GET", "/metrics")
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        link.getresponse()


def test_a_client_that_says_nothing_holds_up_nobody(port: int, files: tuple[str, str]) -> None:
    with socket.create_connection((ADDRESS, port)):
        assert status(port, files[0], files) == 200


def test_a_renewed_certificate_is_shown_without_a_restart(port: int, files: tuple[str, str], tmp_path: Path) -> None:
    before = ssl.create_default_context(cafile=files[0])
    assert status(port, files[0], files) == 200
    certificate(tmp_path, "host")
    assert status(port, files[0], files) == 200
    with pytest.raises(ssl.SSLError), socket.create_connection((ADDRESS, port)) as link:
        before.wrap_socket(link, server_hostname=ADDRESS)


def test_the_page_may_have_a_certificate_of_its_own(
    port: int, files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = certificate(tmp_path / "page", "page")
    for name, value in zip(("CERT", "KEY"), page, strict=True):
        monkeypatch.setenv(f"HOLDFAST_METRICS_TLS_{name}", value)
    assert status(port, page[0], files) == 200
    with pytest.raises(ssl.SSLError):
        status(port, files[0], files)


@pytest.mark.usefixtures("files")
def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_TLS_KEY")
    with pytest.raises(ImproperlyConfigured, match="HOLDFAST_TLS_KEY is not set"):
        Server(ADDRESS, 0)


def test_another_word_than_yes_and_no_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_METRICS_TLS", "true")
    with pytest.raises(ImproperlyConfigured, match="allowed are yes and no"):
        Server(ADDRESS, 0)

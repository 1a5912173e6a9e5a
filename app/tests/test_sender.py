"""Where a request may go is decided on the numbers that are connected to; answers are bounded in time and size."""

from __future__ import annotations

import ipaddress
import resource
import socket
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import httpcore
import pytest

from webhooks import sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
MIB = 1024 * 1024


def send(url: str, *, seconds: float = 20, allowed: tuple[sender.Network, ...] = LOOPBACK) -> int:
    return sender.send(sender.check_url(url, plain=bool(allowed)), {}, b"{}", seconds=seconds, allowed=allowed)


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on loopback that gives each connection to ``answer``; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join(10)


class Connected(Exception):  # noqa: N818 - says what would have happened, and is no error
    """The policy would have let the connection be made."""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop at the point where a connection would be made: these tests name addresses of others."""

    class Wire(httpcore.SyncBackend):
        def connect_tcp(self, host: str, *_: object, **__: object) -> httpcore.NetworkStream:
            raise Connected(host)

    monkeypatch.setattr(httpcore, "SyncBackend", Wire)


def test_an_allowed_receiver_is_reached() -> None:
    with server(lambda connection: connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")) as url:
        assert send(url) == 204


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "0x7f000001", "2130706433", "017700000001", "localhost", "0.0.0.0", "[::1]", "[::]",  # noqa: S104 - nothing is bound, and nothing may be reached
        "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "10.0.0.1", "172.16.0.1",
        "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255",
        "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("no_network")
def test_what_is_not_public_is_refused_however_it_is_written(host: str) -> None:
    with pytest.raises(sender.RefusedError, match="WEBHOOKS_ALLOWED_NETWORKS"):
        send(f"https://{host}/", allowed=())


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("host", ["203.0.114.1", "[2606:4700::1111]"])
def test_a_public_address_is_not_refused(host: str) -> None:
    with pytest.raises(Connected):
        send(f"https://{host}/", allowed=())


@pytest.mark.usefixtures("no_network")
def test_a_name_is_judged_by_the_numbers_it_stands_for_at_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([["203.0.114.1", "10.0.0.1"], ["10.0.0.1"]])

    def resolve(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, port)) for number in next(answers)]

    monkeypatch.setattr(sender, "getaddrinfo", resolve)
    with pytest.raises(Connected, match=r"^203\.0\.114\.1$"):  # asked once: what was judged is what is connected to
        send("https://rebind.example/", allowed=())
    with pytest.raises(sender.RefusedError):
        send("https://rebind.example/", allowed=())


@pytest.mark.usefixtures("no_network")
def test_plain_http_goes_to_allowed_networks_alone() -> None:
    with pytest.raises(sender.RefusedError, match=r"schemes: https$"):
        send("http://example.org/", allowed=())
    with pytest.raises(sender.RefusedError, match="WEBHOOKS_ALLOWED_NETWORKS"):
        send("http://8.8.8.8/", allowed=LOOPBACK)  # refused before anything is sent


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/", "https:///path", "https://a:b:c/", "https://secret@example.org/",
        "https://user:secret@example.org/", "https://example.org/\r\nX: 1", "https://example.org/\ta",
        "https://ex ample/", "https://example.org/" + "a" * 2048, "file:///etc/passwd", "", "//example.net/",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(sender.RefusedError) as caught:
        sender.check_url(url, plain=True)
    assert not url or url not in str(caught.value)


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with server(lambda connection: connection.sendall(answer)) as url:
        assert send(url) == 302


def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with server(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as url:
        assert send(url) == 200


def test_a_receiver_that_drips_is_cut_off_at_the_whole_deadline() -> None:
    gone = threading.Event()
    ended = monotonic() + 15  # a sender without a deadline reads a broken answer then, and not for ever

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        try:
            while monotonic() < ended and not gone.wait(0.2):  # each step is far below the limit
                connection.sendall(b"X-Drip: 1\r\n")
        except OSError:
            return

    with server(drip) as url:
        with pytest.raises(httpcore.TimeoutException):
            send(url, seconds=1)
        assert monotonic() < ended
        gone.set()


def test_a_large_answer_is_not_read_to_its_end() -> None:
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n")
        try:
            while sent < 256 * MIB:
                sent += connection.send(b"x" * MIB)
        except OSError:
            return

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with server(flood) as url:
        assert send(url, seconds=10) == 200
    assert sent < 64 * MIB, "the receiver could not send more than the buffers of the connection hold"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024

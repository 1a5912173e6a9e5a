"""One HTTP request to an address that a stranger chose: where it may go, how long it may take, how much it may answer.

The address is checked when the connection is made, on the numbers that the name stands for at that moment, and exactly
these numbers are connected to: a name that changes between check and use gains nothing. Redirects are answers like any
other, and no proxy is read from the environment.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from functools import lru_cache
from socket import SOCK_STREAM, gaierror, getaddrinfo
from time import monotonic
from typing import TYPE_CHECKING, Any, override

import httpcore
import httpx

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    type Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    type Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ANSWER = (
    64 * 1024
)  # bytes that are read of an answer's body, for a connection that ends in good order; only the status is used
MAX_URL = 2048  # characters; receivers and proxies commonly refuse longer ones
# Refused beyond what Python calls not global: addresses that carry another one inside, which a gateway would unpack
# (RFC 6052, 3056, 7526, 4291), and a block of IETF protocols (RFC 6890) in which a cloud serves its metadata
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text) for text in ("64:ff9b::/96", "2002::/16", "192.88.99.0/24", "::/96", "192.0.0.0/24")
)

logging.getLogger("httpcore").setLevel(logging.INFO)  # it logs an answer's headers, which may repeat a secret


class RefusedError(Exception):
    """The address is none that deliveries may go to; no later attempt changes that."""


def check_url(text: str, *, plain: bool) -> httpx.URL:
    """Return the parsed address of a receiver.

    Args:
        text: what the user gave.
        plain: whether ``http`` is allowed beside ``https``.

    Raises:
        RefusedError: it is not an address, or holds what must not be sent or logged. The message does not repeat it.
    """
    schemes = ("https", "http") if plain else ("https",)
    if len(text) > MAX_URL or any(character <= " " or character == "\x7f" for character in text):
        raise RefusedError(f"url must have at most {MAX_URL} characters, without white space and control characters")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:  # its text quotes the address
        raise RefusedError("url is not an address such as https://example.org/hook") from None
    if url.scheme not in schemes or not url.host:
        raise RefusedError(f"url must be an address such as https://example.org/hook; schemes: {', '.join(schemes)}")
    if url.userinfo:
        raise RefusedError("url holds a user name or password; put a secret into the path, or verify the signature")
    return url


def send(url: httpx.URL, headers: Mapping[str, str], body: bytes, *, seconds: float, allowed: Sequence[Network]) -> int:
    """POST ``body`` and return the status of the answer.

    Args:
        url: from :func:`check_url`.
        headers: what to send beside Host, User-Agent, Content-Type and Content-Length.
        body: JSON.
        seconds: limit for everything after the name is resolved: connecting, TLS, sending, reading.
        allowed: networks that may be reached although they are not public, and without TLS.

    Raises:
        RefusedError: every number of the address is private, reserved or, for ``http``, outside of ``allowed``.
        httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError: no answer.
    """
    backend = _Backend(allowed, plain=url.scheme == "http", end=monotonic() + seconds)
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    own = {"Host": url.netloc.decode("ascii"), "User-Agent": "webhooks", "Content-Type": "application/json"}
    with (
        httpcore.ConnectionPool(ssl_context=_tls(), network_backend=backend, max_keepalive_connections=0) as pool,
        pool.stream("POST", target, headers=[*own.items(), *headers.items()], content=body) as answer,
    ):
        read = 0
        for chunk in answer.iter_stream():
            read += len(chunk)
            if read > MAX_ANSWER:
                break
        return int(answer.status)


@lru_cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads all trusted certificates, which takes longer than a request


class _Backend(httpcore.NetworkBackend):
    """Connects to addresses that are allowed, within one deadline for the whole request."""

    def __init__(self, allowed: Sequence[Network], *, plain: bool, end: float) -> None:
        self._allowed = allowed
        self._plain = plain
        self._end = end
        self._tcp = httpcore.SyncBackend()

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = {entry[4][0]: None for entry in getaddrinfo(host, port, type=SOCK_STREAM)}
        except (gaierror, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name cannot be resolved: {error}") from error
        numbers = [number for number in map(str, found) if self._may_reach(ipaddress.ip_address(number))]
        if not numbers:
            raise RefusedError(
                "the address is not one that deliveries may go to: public ones by https, those of "
                "WEBHOOKS_ALLOWED_NETWORKS by http, too"
            )
        for number in numbers[:-1]:
            try:
                return self._connect(number, port, socket_options)
            except httpcore.NetworkError:  # the next one may answer
                continue
        return self._connect(numbers[-1], port, socket_options)

    def _connect(self, number: str, port: int, options: Iterable[Any] | None) -> httpcore.NetworkStream:
        left = _left(self._end)
        return _Stream(self._tcp.connect_tcp(number, port, timeout=left, socket_options=options), self._end)

    def _may_reach(self, address: Address) -> bool:
        inner = getattr(address, "ipv4_mapped", None) or address
        if any(inner in network for network in self._allowed):
            return True
        public = inner.is_global and not inner.is_multicast and not any(inner in network for network in _NOT_PUBLIC)
        return public and not self._plain


class _Stream(httpcore.NetworkStream):
    """A connection whose every step ends at the same moment; httpcore's own limits are per step."""

    def __init__(self, stream: httpcore.NetworkStream, end: float) -> None:
        self._stream = stream
        self._end = end

    @override
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._end))

    @override
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._end))

    @override
    def close(self) -> None:
        self._stream.close()

    @override
    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(self._end)), self._end)

    @override
    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left(end: float) -> float:
    left = end - monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the receiver took longer than WEBHOOKS_TIMEOUT")
    return left

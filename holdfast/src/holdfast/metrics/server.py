"""``/metrics`` on a small HTTP port, from a thread that shares no lock with the rest of the process.

With ``HOLDFAST_METRICS_TLS=yes`` the port speaks TLS, and answers only clients that show a certificate of the authority
in ``HOLDFAST_TLS_CA``, as Prometheus does. It shows the certificate of ``HOLDFAST_METRICS_TLS_CERT`` and ``_KEY``,
which is for a server; without them that of ``HOLDFAST_TLS_CERT`` and ``_KEY``.
"""

from __future__ import annotations

import logging
import os
import socketserver
import ssl
from threading import Thread
from time import sleep
from typing import TYPE_CHECKING, Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler

from celery.exceptions import ImproperlyConfigured
from typing_extensions import override

from holdfast import environment, extras

with extras.needed():
    from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector, make_wsgi_app
    from prometheus_client.exposition import ThreadingWSGIServer
    from prometheus_client.multiprocess import MultiProcessCollector

    from holdfast.metrics import numbers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from prometheus_client.registry import Collector

    StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], object]

logger = logging.getLogger(__name__)

PAUSE = 5.0  # seconds between two attempts to get the port
SHAKE = 5.0  # seconds that a client may be silent where it has to prove itself
TEXT = [("Content-Type", "text/plain")]


class Server(ThreadingWSGIServer):
    """The HTTP server of one process.

    Args:
        address: to listen on.
        port: TCP port, 0 for any free one.
        collectors: what this process shows beside the counted numbers.
        health: returns whether the process is healthy, and a sentence; None leaves out ``/healthz``.

    Raises:
        OSError: the port is taken, the address is not ours, or a file of the certificate cannot be read.
        ImproperlyConfigured: TLS is wanted and a file is not named.
    """

    def __init__(
        self, address: str, port: int, *collectors: Collector, health: Callable[[], tuple[bool, str]] | None = None
    ) -> None:
        self._tls = environment.flag("HOLDFAST_METRICS_TLS")
        if self._tls:
            _context()  # what is wrong with the files is said now
        super().__init__((address, port), _Quiet)
        self._health = health
        self._page = make_wsgi_app(_registry(collectors))
        self.set_app(self._answer)
        # a child of the pool that outlives its parent would keep the port from the next one
        os.register_at_fork(after_in_child=self.socket.close)

    @override
    def server_bind(self) -> None:
        """Listen without asking the name service who we are, which can take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    @override
    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a client; the handshake is left to the thread that answers it."""
        link, address = super().get_request()
        if self._tls:
            link.settimeout(SHAKE)
            # the files are read each time: a renewed certificate needs no restart
            link = _context().wrap_socket(link, server_side=True, do_handshake_on_connect=False)
        return link, address

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Log a client that had no certificate, or left; by default it is a traceback on standard error."""
        logger.debug("metrics: no answer to %s", client_address, exc_info=True)

    def start(self) -> None:
        """Answer from a background thread."""
        Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return self._page(environ, start_response)  # type: ignore[no-any-return]  # untyped in the library
            case "/healthz" if self._health:
                healthy, sentence = self._health()
                start_response("200 OK" if healthy else "503 Service Unavailable", TEXT)
                return [f"{sentence}\n".encode()]
            case _:
                start_response("404 Not Found", TEXT)
                return [b"/metrics is here\n"]


def serve_when_free(address: str, port: int, *collectors: Collector) -> None:
    """Serve as soon as the port can be had; the caller goes on at once, and never hears of a port that stays taken.

    Args:
        address: to listen on.
        port: TCP port.
        collectors: what this process shows beside the counted numbers.
    """

    def run() -> None:
        complained = False
        while True:
            try:
                server = Server(address, port, *collectors)
            except (OSError, ImproperlyConfigured) as error:
                if not complained:
                    logger.warning(
                        "metrics: cannot listen on %s:%d (%s); trying again until it is free. Each program of a host "
                        "needs a HOLDFAST_METRICS_PORT of its own",
                        address,
                        port,
                        error,
                    )
                complained = True
                sleep(PAUSE)
            else:
                logger.info("metrics on %s:%d", address, port)
                server.serve_forever()

    Thread(target=run, name="metrics", daemon=True).start()


def _context() -> ssl.SSLContext:
    authority = environment.required("HOLDFAST_TLS_CA")
    certificate, key = (
        environment.required(environment.first_set(f"HOLDFAST_METRICS_TLS_{name}", f"HOLDFAST_TLS_{name}"))
        for name in ("CERT", "KEY")
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _registry(collectors: Iterable[Collector]) -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    if numbers.FILES:
        ProcessCollector(registry=registry)
        for collector in numbers.OF_TASKS:
            registry.register(collector)
        MultiProcessCollector(registry, str(numbers.FILES.folder))  # type: ignore[no-untyped-call]  # untyped there
    elif numbers.PORT is None:
        registry.register(REGISTRY)
    # else: files were wanted and cannot be had. The numbers in memory have locks that the children inherit, so a
    # thread must not touch them: one that is held during a fork is held in the child for ever.
    return registry


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: a scrape is no event."""

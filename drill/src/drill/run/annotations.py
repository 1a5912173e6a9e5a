"""Tells the target's Prometheus which fault is under way, so that every dashboard can shade it."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, start_http_server

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Thread
    from wsgiref.simple_server import WSGIServer


class Annotations:
    """Serves ``holdfast_drill_fault`` where Prometheus reaches this machine, for as long as the drill runs.

    Args:
        folder: where Prometheus looks for targets (``file_sd_configs``); nothing is served if it is not there.
        prometheus: its address; the port is opened on the one address of this machine that leads there.
    """

    def __init__(self, folder: Path, prometheus: str) -> None:
        self._file = folder / "drill.json"
        self._prometheus = prometheus
        self._registry = CollectorRegistry()
        self._gauge = Gauge(
            "holdfast_drill_fault", "1 while the drill has this fault applied.", ["fault"], registry=self._registry
        )
        self._server: tuple[WSGIServer, Thread] | None = None

    def start(self) -> None:
        """Open the port and announce it.

        Raises:
            OSError: no way leads to Prometheus.
        """
        if not self._file.parent.is_dir():
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((self._prometheus, 9090))  # sends nothing; asks for the way only
            address = probe.getsockname()[0]
        self._server = start_http_server(0, address, self._registry)
        targets = [{"targets": [f"{address}:{self._server[0].server_port}"]}]
        self._file.write_text(json.dumps(targets))
        self._file.chmod(0o644)

    def show(self, fault: str, *, lasts: bool) -> None:
        """Say that a fault is under way, or over."""
        self._gauge.labels(fault).set(lasts)

    def stop(self) -> None:
        """Close the port and take the announcement back."""
        self._file.unlink(missing_ok=True)
        if self._server:
            self._server[0].shutdown()
            self._server[0].server_close()
            self._server[1].join()

"""The dead man's switch on servers of its own: signs of life come while Prometheus lives, and end with it."""

from __future__ import annotations

import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import yaml

from ..servers import free_ports, image
from ..stack import ROOT, http_json, wait_until
from .test_rendered_files import rendered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["rendered"]  # a fixture

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

SECONDS = {"group_interval: 20s": "group_interval: 1s", "repeat_interval: 50s": "repeat_interval: 1500ms"}
QUIET = 10  # seconds, five times what is between two signals here


class Switch(ThreadingHTTPServer):
    """Somebody outside who counts the signs of life.

    Attributes:
        signals: how many have come.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Signal)
        self.signals = 0


class Signal(BaseHTTPRequestHandler):
    """One sign of life."""

    server: Switch

    def do_POST(self) -> None:
        """Count it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.signals += self.path == "/heartbeat"
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def switch() -> Iterator[Switch]:
    """Somebody outside."""
    server = Switch()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Watchers:
    """A Prometheus and an Alertmanager on free ports.

    Args:
        folder: for their files.
        route: Alertmanager's file.

    Attributes:
        alertmanager, prometheus: ids of the containers.
    """

    def __init__(self, folder: Path, route: str) -> None:
        own, other = free_ports(2)
        files = {
            "alertmanager": route,
            "prometheus": yaml.safe_dump({
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": ["/rules/*.yml"],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{other}"]}]}]},
                "scrape_configs": [{"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{own}"]}]}],
            }),
        }  # fmt: skip
        for name, text in files.items():
            (folder / f"{name}.yml").write_text(text)
            (folder / f"{name}.yml").chmod(0o644)  # they run as users of their own
        self.alertmanager = started(
            "--volume", f"{folder}/alertmanager.yml:/alertmanager.yml:ro", image("prom/alertmanager"),
            "--config.file=/alertmanager.yml", "--storage.path=/alertmanager",
            f"--web.listen-address=127.0.0.1:{other}", "--cluster.listen-address=",
        )  # fmt: skip
        self.prometheus = started(
            "--volume", f"{folder}/prometheus.yml:/prometheus.yml:ro",
            "--volume", f"{ROOT}/monitoring/rules:/rules:ro", image("prom/prometheus"),
            "--config.file=/prometheus.yml", "--storage.tsdb.path=/prometheus", f"--web.listen-address=127.0.0.1:{own}",
            # it says each second that an alert is on; Alertmanager believes it for four times as long
            "--rules.alert.resend-delay=1s",
        )  # fmt: skip
        self._api = f"http://127.0.0.1:{other}/api/v2"

    def watchdog(self) -> list[object]:
        """Return what Alertmanager knows of the watchdog."""
        found: list[object] = http_json(f"{self._api}/alerts?filter=alertname%3DWatchdog")
        return found


def docker(*command: str) -> str:
    """Run a command of Docker; return what it says."""
    return subprocess.run(["docker", *command], check=True, capture_output=True, text=True).stdout.strip()


def started(*command: str) -> str:
    """Start a container in the network of this machine; return its id."""
    return docker("run", "--detach", "--network", "host", *command)


@pytest.fixture
def watchers(tmp_path: Path, rendered: Path, switch: Switch) -> Iterator[Watchers]:
    """Both with the rendered route of the watchdog, which leads to the switch."""
    text = (rendered / "out/secret/alertmanager/alertmanager.yml").read_text()
    for written, shorter in {**SECONDS, "127.0.0.1:8025": f"127.0.0.1:{switch.server_port}"}.items():
        assert text.count(written) == 1, written
        text = text.replace(written, shorter)
    found = Watchers(tmp_path, text)
    yield found
    docker("rm", "--force", "--volumes", found.alertmanager, found.prometheus)


def test_signs_of_life_end_with_prometheus_and_come_back_with_it(watchers: Watchers, switch: Switch) -> None:
    def more(count: int) -> None:
        before = switch.signals
        wait_until(lambda: switch.signals >= before + count, f"{count} more signs of life", 60)

    more(3)
    docker("stop", watchers.prometheus)
    wait_until(lambda: not watchers.watchdog(), "Alertmanager no longer takes the watchdog for on", 60)
    last, until = switch.signals, time.monotonic() + QUIET
    wait_until(lambda: time.monotonic() > until, "the time of five signals has passed", QUIET + 10)
    assert switch.signals - last <= 1, "at most the one that was on its way"
    docker("start", watchers.prometheus)
    more(3)

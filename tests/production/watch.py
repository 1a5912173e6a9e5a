"""What the hosts of the monitoring see, and the signs of life that somebody outside gets from them."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from ..stack.stack import http_json, wait_until

if TYPE_CHECKING:
    from .lab import Lab

INTERVAL = 60  # seconds between two signs of life
QUIET = 2.5 * INTERVAL  # without one for so long, there are no more
BELIEF = 240  # seconds for which Alertmanager takes an alert for one that fires without hearing of it


ASK = "promtool query instant --http.config.file=/etc/prometheus/promtool.yml https://localhost:9090"


def complete(lab: Lab, host: str, watchers: int) -> bool:
    """Tell whether the Prometheus of a host reads everything, so many of its kind too; one that starts does not."""
    words = f'count(up{{job="prometheus"}} == 1) == {watchers} unless on () (up == 0)'
    return bool(lab.on(host, "sh", "-c", f"{ASK} '{words}' || true"))


class Receiver:
    """The lab's receiver, which stands for somebody outside.

    Args:
        url: where it answers.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def told(self, **labels: str) -> bool:
        """Tell whether Alertmanager has told of an alert with these labels."""
        alerts: list[dict[str, Any]] = http_json(f"{self._url}/alerts")
        return any(labels.items() <= alert.items() for alert in alerts)

    def signals(self) -> list[float]:
        """Return when each sign of life came, as Unix time."""
        return [entry["time"] for entry in http_json(f"{self._url}/log?path=/heartbeat") if entry["status"] == 200]

    def come(self, count: int) -> list[int]:
        """Wait for signs of life from now on, and return the seconds between them."""
        began = time.time()
        limit = BELIEF + 2 * count * INTERVAL
        wait_until(lambda: len(self._since(began)) >= count, f"{count} signs of life", limit)
        return [round(later - earlier) for earlier, later in itertools.pairwise(self._since(began))]

    def end(self) -> float:
        """Wait until no more signs of life come, and return when the last one did, as Unix time."""
        wait_until(lambda: time.time() - self.signals()[-1] > QUIET, "no more signs of life", BELIEF + 4 * QUIET)
        return self.signals()[-1]

    def _since(self, moment: float) -> list[float]:
        return [at for at in self.signals() if at > moment]

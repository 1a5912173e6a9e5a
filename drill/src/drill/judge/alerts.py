"""Which alert each fault must raise, and what Prometheus says of it: raised in time, gone after healing."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpx

    from drill.faults.record import Fault

# Faults that are not here heal by themselves, or within a failover, before somebody would be called.
EXPECTED = {
    "broker-outage": "BrokerDown",
    "broker-leader-pause": "BrokerDown",
    "broker-majority-kill": "QuorumLost",
    "broker-descriptor-limit": "BrokerDown",
    "broker-partition": "QueueMemberStandsStill",
    "disk-alarm": "BrokerDiskAlarm",
    "memory-alarm": "BrokerMemoryAlarm",
    "redis-primary-kill": "RedisDown",
    "redis-primary-pause": "RedisDown",
    "redis-primary-isolate": "RedisTwoPrimaries",
    "redis-replicas-kill": "RedisRefusesWrites",
    "sentinel-kill": "SentinelDown",
    "sentinel-majority-kill": "SentinelQuorumLost",
    "worker-host-kill": "WorkerAbsent",
    "worker-pause": "WorkerAbsent",
    "worker-stop": "WorkerAbsent",
    "unroutable": "MessagesUnroutable",
}
WINDOWS = {"QueueMemberStandsStill": 30.0}  # seconds that the condition itself looks back, before its `for` begins
SCRAPES = 2
RESOLVE = 180.0  # seconds; the longest window of an expected alert, and the recovery of what it watches


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which an alert fired; Unix times by Prometheus's clock.

    Attributes:
        until: its last evaluation; None while it still fires.
    """

    name: str
    since: float
    until: float | None


@dataclass(frozen=True, slots=True)
class AlertResult:
    """What became of the alert that a fault must raise.

    Attributes:
        allowed: seconds from the fault to the alert: its window, its `for` and two scrapes.
        after: seconds that it took; None when it was not raised before the next fault.
        resolved: seconds from the healing to its end; None when it goes on, or was not raised.
    """

    alert: str
    allowed: float
    after: float | None
    resolved: float | None

    @property
    def good(self) -> bool:
        """Whether it came in time and went."""
        return self.after is not None and self.after <= self.allowed and self.resolved is not None


class Watch:
    """Asks the Prometheus of the stack; it need not live during the faults, only afterwards.

    Args:
        client: knows where Prometheus is.

    Raises:
        httpx.HTTPError: it does not answer.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        groups = self._get("rules", type="alert")["groups"]
        self.interval = max(float(group["interval"]) for group in groups)
        targets = self._get("targets", state="active")["activeTargets"]
        self._scrape = max(_seconds(target["scrapeInterval"]) for target in targets)
        self._for = {rule["name"]: float(rule["duration"]) for group in groups for rule in group["rules"]}

    def allowed(self, fault: str) -> float:
        """Return the seconds within which a fault's alert must fire; 0 for a fault that raises none."""
        alert = EXPECTED.get(fault)
        if alert is None or alert not in self._for:
            return 0.0
        return WINDOWS.get(alert, 0.0) + self._for[alert] + SCRAPES * self._scrape

    def limits(self) -> dict[str, float]:
        """Return :meth:`allowed` of every fault that must raise an alert."""
        return {fault: self.allowed(fault) for fault in EXPECTED}

    def wait_resolved(self) -> None:
        """Wait until none of the expected alerts fires, at most :data:`RESOLVE` seconds."""
        deadline = time.monotonic() + RESOLVE
        names = "|".join(sorted(set(EXPECTED.values())))
        while time.monotonic() < deadline:
            if not self._get("query", query=f'ALERTS{{alertstate="firing", alertname=~"{names}"}}')["result"]:
                return
            time.sleep(self.interval / 2)

    def spans(self, start: float, end: float) -> list[Span]:
        """Return when which alert fired, whatever its labels.

        Args:
            start: Unix time.
            end: Unix time, not in the future.
        """
        window = max(1, int(end - start))
        found = self._get("query", query=f'ALERTS{{alertstate="firing"}}[{window}s]', time=str(end))["result"]
        times: dict[str, set[float]] = {}
        for series in found:
            times.setdefault(series["metric"]["alertname"], set()).update(float(at) for at, _ in series["values"])
        return [
            Span(name, first, None if last > end - 2 * self.interval else last)
            for name, moments in sorted(times.items())
            for first, last in _runs(sorted(moments), 3 * self.interval)
        ]

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        answer.raise_for_status()
        return answer.json()["data"]


def _seconds(duration: str) -> float:
    """Return the seconds of a duration as Prometheus writes it: ``1m30s``."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|[smhd])", duration))


def _runs(moments: list[float], gap: float) -> list[tuple[float, float]]:
    """Join moments that are at most ``gap`` seconds apart into first and last."""
    runs: list[tuple[float, float]] = []
    for at in moments:
        if runs and at - runs[-1][1] <= gap:
            runs[-1] = runs[-1][0], at
        else:
            runs.append((at, at))
    return runs


def judge(faults: Iterable[Fault], spans: list[Span], limits: dict[str, float]) -> dict[str, AlertResult]:
    """Return, by the fault's key, what became of the alert that it must raise.

    An alert that fired already when the fault began proves nothing, and counts as not raised.

    Args:
        faults: in the order in which they happened.
        spans: all alerts of the run.
        limits: seconds allowed, by the fault's name.
    """
    ordered = list(faults)
    ends = [*(fault.apply_at for fault in ordered[1:]), float("inf")]
    outcomes = {}
    for fault, end in zip(ordered, ends, strict=False):  # a run without a fault has no end either
        alert, allowed = EXPECTED.get(fault.name), limits.get(fault.name, 0.0)
        if alert is None or not allowed or not fault.applied_at:
            continue
        mine = [span for span in spans if span.name == alert and fault.apply_at <= span.since < end]
        after = max(0.0, mine[0].since - fault.applied_at) if mine else None
        last = mine[-1].until if mine else None
        resolved = max(0.0, last - fault.healed_at) if last is not None else None
        outcomes[fault.key] = AlertResult(alert, allowed, after, resolved)
    return outcomes

"""The alert rules by promtool, and on the running stack: targets, links, and the way from a rule to the receiver."""

from __future__ import annotations

import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
import yaml

from .stack import ALERTMANAGER, PROMETHEUS, ROOT, alertmanager, http_json, login, prometheus, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .stack import Stack

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

RECEIVER = "http://127.0.0.1:8025"
PROMTOOL = (
    "docker", "run", "--rm", "--network", "none", "--volume", f"{ROOT / 'monitoring'}:/monitoring:ro",
    "--workdir", "/monitoring/tests", "--entrypoint", "promtool", "prom/prometheus:v3.13.2",
)  # fmt: skip
RULES = sorted(path.name for path in (ROOT / "monitoring/rules").glob("*.yml"))
TESTS = sorted(path.name for path in (ROOT / "monitoring/tests").glob("*.yml"))


def promtool(*arguments: str) -> None:
    """Run promtool; its words are the failure."""
    done = subprocess.run([*PROMTOOL, *arguments], check=False, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *(f"../rules/{name}" for name in RULES))


@pytest.mark.parametrize("name", TESTS)
def test_alerts_fire_when_they_should_and_are_silent_when_not(name: str) -> None:
    promtool("test", "rules", name)


def query(expression: str) -> list[dict[str, Any]]:
    """Return the series that an expression has now."""
    answer = prometheus(f"query?query={quote(expression)}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def test_every_target_is_up(stack: Stack) -> None:  # noqa: ARG001 - the stack must be there
    listed = yaml.safe_load((ROOT / "compose/config/prometheus/prometheus.yml").read_text())["scrape_configs"]
    jobs = {job["job_name"] for job in listed if any(config["targets"] for config in job.get("static_configs", []))}

    def up() -> bool:
        targets = prometheus("targets")["data"]["activeTargets"]
        problems = [f"{target['scrapeUrl']}: {target['lastError']}" for target in targets if target["health"] != "up"]
        strange = {target["labels"]["job"] for target in targets} ^ jobs  # a drill that has ended is one for a moment
        if problems or strange:
            raise ValueError(f"{problems}, other jobs: {strange}")
        return True

    wait_until(up, "every target is up, and there is no other one")


def test_prometheus_runs_the_rules_of_this_checkout_without_an_error(stack: Stack) -> None:  # noqa: ARG001 - as above
    groups = prometheus("rules")["data"]["groups"]
    running = sorted(rule["name"] for group in groups for rule in group["rules"])
    files = [yaml.safe_load((ROOT / "monitoring/rules" / name).read_text()) for name in RULES]
    written = sorted(
        rule.get("alert") or rule["record"] for file in files for group in file["groups"] for rule in group["rules"]
    )
    assert running == written
    wait_until(
        lambda: all(rule["health"] == "ok" for group in prometheus("rules")["data"]["groups"]
                    for rule in group["rules"]),
        "every rule has been evaluated",
    )  # fmt: skip


def test_what_the_rules_read_is_there(stack: Stack) -> None:  # noqa: ARG001 - as above
    """A typing error in a name would keep an alert silent for ever."""
    text = "".join((ROOT / "monitoring/rules" / name).read_text() for name in RULES)
    text = re.sub(r'holdfast:\w+|name="\w+"|name: \w+', "", text)  # what the rules record, and names of thresholds
    names = set(re.findall(r"\b((?:rabbitmq|redis|holdfast|prometheus|alertmanager)_[a-z_]+)\b", text))
    absent = {
        "holdfast_certificate_expiry_timestamp_seconds",  # production alone: from node_exporter's text files
        "holdfast_firewall_loaded",  # the same
        "redis_errors_total",  # appears with the first error
        "holdfast_worker_paused_timestamp_seconds",  # exists while a queue is paused; test_metrics.py has its name
    }

    def known() -> bool:
        if missing := names - absent - set(prometheus("label/__name__/values")["data"]):
            raise ValueError(missing)
        return True

    wait_until(known, "each name has been scraped")


@pytest.fixture
def instance() -> Iterator[str]:
    """A host that is not there, for alerts of this test alone; what it has raised is ended afterwards."""
    name = f"test-{uuid4().hex[:8]}"
    yield name
    raised = alertmanager(f"alerts?filter=instance%3D{name}")
    if raised:
        now = datetime.now(UTC).isoformat()
        alertmanager("alerts", [{"labels": a["labels"], "endsAt": now} for a in raised])


def raise_alert(name: str, component: str, instance: str, severity: str = "critical") -> None:
    """Post an alert as Prometheus would."""
    labels = {"alertname": name, "component": component, "instance": instance, "severity": severity}
    ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    alertmanager("alerts", [{"labels": labels, "annotations": {}, "endsAt": ends}])


def received(instance: str) -> list[str]:
    """Return the names of the alerts about ``instance`` that have reached the receiver."""
    return [alert["alertname"] for alert in http_json(f"{RECEIVER}/alerts") if alert.get("instance") == instance]


def test_a_dead_host_is_one_page(stack: Stack, instance: str) -> None:  # noqa: ARG001 - as above
    """The host's alert arrives; what follows from it is held back, and Alertmanager says by whom."""
    raise_alert("HostDown", "hosts", instance)
    raise_alert("BrokerDown", "brokers", instance)
    raise_alert("RedisDown", "results", instance, "warning")

    def silenced() -> set[str]:
        found = alertmanager(f"alerts?filter=instance%3D{instance}")
        return {alert["labels"]["alertname"] for alert in found if alert["status"]["inhibitedBy"]}

    wait_until(lambda: silenced() == {"BrokerDown", "RedisDown"}, "what follows from the host is held back")
    wait_until(lambda: received(instance), "the page arrives")
    later = time.monotonic() + 30  # a second group would have been told by then, too
    wait_until(lambda: time.monotonic() > later, "the other groups' time has passed", 40)
    assert set(received(instance)) == {"HostDown"}


def test_the_links_of_an_alert_lead_to_its_runbook(stack: Stack) -> None:  # noqa: ARG001 - as above
    labels = yaml.safe_load((ROOT / "compose/config/prometheus/prometheus.yml").read_text())["global"][
        "external_labels"
    ]
    for page in sorted((ROOT / "monitoring/runbooks").glob("*.md")):
        asked = Request(f"{labels['runbooks']}/{page.name}", headers=login("PROMETHEUS_PASSWORD"))  # noqa: S310 - loopback
        with urlopen(asked, timeout=30) as answer:  # noqa: S310 - as above
            assert answer.read() == page.read_bytes(), page.name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"{PROMETHEUS}/api/v1/query?query=up", "PROMETHEUS_PASSWORD"),
        (f"{PROMETHEUS}/user/status/index.html", "PROMETHEUS_PASSWORD"),
        (f"{PROMETHEUS}/metrics", "PROMETHEUS_PASSWORD"),
        (f"{ALERTMANAGER}/api/v2/status", "ALERTMANAGER_PASSWORD"),
        (f"{ALERTMANAGER}/metrics", "ALERTMANAGER_PASSWORD"),
    ],
)
def test_a_page_of_the_monitoring_answers_its_own_login_alone(stack: Stack, url: str, name: str) -> None:  # noqa: ARG001 - as above
    other = {"PROMETHEUS_PASSWORD": "ALERTMANAGER_PASSWORD", "ALERTMANAGER_PASSWORD": "PROMETHEUS_PASSWORD"}[name]
    for headers in ({}, login(other)):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(url, headers=headers), timeout=30)  # noqa: S310 - loopback
        assert refused.value.code == 401
    with urlopen(Request(url, headers=login(name)), timeout=30) as answer:  # noqa: S310 - as above
        assert answer.status == 200


def test_nobody_mutes_an_alert_without_a_login(stack: Stack, instance: str) -> None:  # noqa: ARG001 - as above
    """The control makes the same silence with the login, and ends it."""
    now = datetime.now(UTC)
    silence = {
        "matchers": [{"name": "instance", "value": instance, "isRegex": False, "isEqual": True}],
        "startsAt": now.isoformat(), "endsAt": (now + timedelta(minutes=5)).isoformat(),
        "createdBy": "a test", "comment": "about a host that is not there",
    }  # fmt: skip
    with pytest.raises(HTTPError) as refused:
        http_json(f"{ALERTMANAGER}/api/v2/silences", silence)
    assert refused.value.code == 401
    made = alertmanager("silences", silence)["silenceID"]
    end = Request(f"{ALERTMANAGER}/api/v2/silence/{made}", headers=login("ALERTMANAGER_PASSWORD"), method="DELETE")  # noqa: S310 - as above
    assert urlopen(end, timeout=30).status == 200  # noqa: S310 - as above

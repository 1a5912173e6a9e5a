"""The firewall of a host comes back after what removes its rules, is seen when it does not, and breaks no boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..stack.stack import wait_until
from .lab import hosts, on

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.lab

METRIC = "cat /var/lib/prometheus/node-exporter/firewall.prom"


def rules(host: str) -> int:
    """Return how many rules of the table name a port."""
    return int(on(host, "nft list table inet holdfast 2>/dev/null | grep -c 'tcp dport' || true"))


@pytest.fixture
def host() -> Iterator[str]:
    """A host whose firewall is in force, before and after; so are the rules by which a container finds its DNS."""
    name = hosts("all")[0]
    on(name, "systemctl restart holdfast-firewall holdfast-firewall-check.timer; iptables-save >/run/others")
    yield name
    on(name, "iptables-restore /run/others; systemctl restart holdfast-firewall holdfast-firewall-check.timer")


@pytest.mark.parametrize("verb", ["restart", "reload-or-restart"])
def test_the_rules_come_back_with_those_of_the_host(host: str, verb: str) -> None:
    before = rules(host)
    assert before > 10
    on(host, "systemctl stop holdfast-firewall-check.timer; systemctl start nftables holdfast-firewall")
    on(host, f"systemctl {verb} nftables")
    wait_until(lambda: rules(host) == before, "the rules are back", 20)


@pytest.mark.parametrize("removed", ["nft flush ruleset", "nft flush chain inet holdfast input"])
def test_rules_that_were_removed_are_seen_and_loaded_again(host: str, removed: str) -> None:
    before = rules(host)
    on(host, f"systemctl stop holdfast-firewall-check.timer; {removed}")
    on(host, "systemctl start holdfast-firewall-check.service")
    assert on(host, METRIC) == "holdfast_firewall_loaded 0\n"
    assert rules(host) == before
    on(host, "systemctl start holdfast-firewall-check.service")
    assert on(host, METRIC) == "holdfast_firewall_loaded 1\n"


def test_the_timer_looks_by_itself(host: str) -> None:
    before = rules(host)
    on(host, "nft flush ruleset")
    wait_until(lambda: rules(host) == before, "the rules are back", 60)


def test_a_firewall_that_is_stopped_stays_so_and_is_seen(host: str) -> None:
    on(host, "systemctl stop holdfast-firewall; systemctl start holdfast-firewall-check.service")
    assert rules(host) == 0
    assert on(host, METRIC) == "holdfast_firewall_loaded 0\n"


CLOUD = "/etc/systemd/system/cloud.service"
CLOUD_UNIT = (
    "[Unit]\\nDefaultDependencies=no\\nAfter=network-pre.target\\nBefore=sysinit.target\\n"
    "[Service]\\nType=oneshot\\nExecStart=/bin/true\\n[Install]\\nWantedBy=sysinit.target\\n"
)
EARLIER = "/run/systemd/system/holdfast-firewall.service.d"


@pytest.mark.parametrize("earlier", [False, True], ids=["as it is", "as it was"])
def test_no_unit_of_the_boot_has_to_be_left_out(host: str, earlier: bool) -> None:
    """A cloud image has a unit between the network and the basic system; with it an early firewall made a cycle.

    The control is the firewall as it was, with the default dependencies.
    """
    write = f"printf '{CLOUD_UNIT}' >{CLOUD}"
    if earlier:
        write += f"; mkdir -p {EARLIER}; printf '[Unit]\\nDefaultDependencies=yes\\n' >{EARLIER}/earlier.conf"
    try:
        on(host, f"{write}; systemctl daemon-reload; systemctl enable cloud")
        said = on(host, "systemd-analyze verify --man=no default.target 2>&1 || true")
    finally:
        on(host, f"systemctl disable cloud; rm -rf {CLOUD} {EARLIER}; systemctl daemon-reload")
    assert ("cycle" in said) is earlier, said

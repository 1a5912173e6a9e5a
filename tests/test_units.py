"""Every unit that the roles write or extend has the sandbox that all share, and the tests on lab hosts look at it."""

from __future__ import annotations

import re

from .commands import ROOT
from .lab.test_sandbox import UNITS

ROLES = ROOT / "ansible/roles"
OWN = {"redis-server", "redis-sentinel"}  # the packages have a sandbox for them; so has Grafana's, which the lab lacks


def units() -> dict[str, str]:
    """Return the template of each unit, and of the settings beside a package's unit, by the name of the unit."""
    found = {}
    for path in ROLES.glob("*/templates/*"):
        if path.name == "unit.conf.j2":
            tasks = "".join(file.read_text() for file in (path.parents[1] / "tasks").glob("*.yml"))
            tasks = tasks.replace("{{ redis_server }}", "redis")  # Valkey's units differ in their names alone
            (name,) = set(re.findall(r"/etc/systemd/system/([\w-]+)\.service\.d/holdfast\.conf", tasks))
        elif match := re.fullmatch(r"([\w-]+)\.(?:service|unit\.conf)\.j2", path.name):
            name = match[1]
        else:
            continue
        found[name] = path.read_text()
    return found


def test_each_has_the_shared_sandbox_or_that_of_its_package() -> None:
    assert {name for name, text in units().items() if "{{ shared_sandbox }}" not in text} == OWN


def test_the_tests_on_lab_hosts_look_at_each() -> None:
    assert set(units()) == set(UNITS)

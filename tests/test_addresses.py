"""Filters of the templates: a port out of an address, and what an environment file cannot hold."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable

FILTERS = Path(__file__).resolve().parents[1] / "ansible/plugins/filter"
port: Callable[[str], str] = runpy.run_path(str(FILTERS / "addresses.py"))["port"]
environment_file: Callable[[str], str] = runpy.run_path(str(FILTERS / "passwords.py"))["environment_file"]


@pytest.mark.parametrize(("address", "number"), [("0.0.0.0:9090", "9090"), (":9100", "9100"), ("localhost:1", "1")])
def test_the_port_of_an_address(address: str, number: str) -> None:
    assert port(address) == number


@pytest.mark.parametrize("address", ["localhost", "", "9090", "host:", "host:http", "host:0", "host:65536"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(AnsibleFilterError, match="allowed: HOST:PORT"):
        port(address)


GOOD = (
    "# a comment; with anything: it's $HOME\n\nA=1\nB_2=amqp://a:p%40@192.0.2.1:5672/x,amqp://b/y\nC=\nD=${PASSWORD}\n"
)


def test_lines_that_everybody_reads_alike_pass_unchanged() -> None:
    assert environment_file(GOOD) == GOOD


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "a;b",
        "a&b",
        "$HOME",
        "`id`",
        '"quoted"',
        "'quoted'",
        "a\\b",
        "~/x",
        "a|b",
        "(a)",
        "a#b",
        "ä",
        "{a}",
        "a*",
        "a\tb",
    ],
)
def test_a_value_that_somebody_reads_otherwise_is_refused_by_name(value: str) -> None:
    with pytest.raises(AnsibleFilterError, match="the value of MINE") as caught:
        environment_file(f"OTHER=1\nMINE={value}\n")
    assert value not in str(caught.value).split("allowed:")[0], "it may be a password"


@pytest.mark.parametrize("line", ["1A=x", "A-B=x", "A B=x", "no sign"])
def test_a_line_that_is_no_variable_is_refused(line: str) -> None:
    with pytest.raises(AnsibleFilterError, match="environment file"):
        environment_file(line)

"""A network that loses some packets: proven by what was lost and what was not, and nothing else than the rules."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeTarget

from drill.faults import REGISTRY
from drill.targets.stack import Settings

if TYPE_CHECKING:
    from drill.targets import Node

RNG = random.Random(1)  # noqa: S311 - repeatable, not secret
SETTINGS = Settings(1, 5, 4, 5, 20, 4, 2, 2, 20)
HEAD = "Chain DRILL (2 references)\n    pkts      bytes target     prot opt in     out     source    destination\n"


class Counting(FakeTarget):
    """A target whose firewall has counted."""

    scripts: list[str]
    seen = lost = 0

    def network(self, node: Node, script: str) -> str:
        self.scripts.append(script)
        assert node.name in self.nodes
        return (
            f"{HEAD}{self.seen:8} 5000            tcp  --  *  *  10.0.0.2   0.0.0.0/0\n"
            f"{self.lost:8} 500 DROP       tcp  --  *  *  10.0.0.2   0.0.0.0/0  statistic mode random\n"
        )


def made(target: FakeTarget) -> Any:
    class Stack:
        broker_port = 5672
        settings = SETTINGS

        def __init__(self) -> None:
            self.target = target

        def node(self, name: str) -> Node:
            return target.nodes[name]

        def tier(self, name: str) -> list[Node]:
            return [node for node in target.nodes.values() if node.tier == name]

        def leader(self, _queue: str) -> Node:
            return target.nodes["rabbit1"]

        def primary(self) -> Node:
            return target.nodes["redis1"]

    return Stack()


@pytest.mark.parametrize(("name", "port"), [("broker-lossy", 5672), ("redis-lossy", 6379)])
def test_every_rule_drops_a_part_of_what_one_before_it_counts(name: str, port: int) -> None:
    target = Counting("rabbit1", "rabbit2", "redis1")
    target.scripts = []
    plan = REGISTRY[name].plan(made(target), RNG)
    plan.apply()
    rules = [line.removeprefix("iptables -A DRILL ") for line in target.scripts[0].splitlines() if " -A " in line]
    counts, drops = rules[::2], rules[1::2]
    assert drops == [f"{rule} -m statistic --mode random --probability 0.05 -j DROP" for rule in counts]
    assert [rule for rule in counts if "tcp" in rule] == [f"-p tcp --{side} {port}" for side in ("dport", "sport")]
    assert any("10.0.0.2" in rule for rule in counts) is (name == "broker-lossy")
    assert plan.undo == [("open", plan.targets[0])]


@pytest.mark.parametrize(
    ("seen", "lost", "proven"), [(0, 0, False), (900, 0, False), (900, 40, True), (900, 900, False)]
)
def test_it_is_proven_when_some_were_lost_and_not_all(seen: int, lost: int, proven: bool) -> None:
    target = Counting("rabbit1", "redis1")
    target.scripts, target.seen, target.lost = [], seen, lost
    proof = REGISTRY["redis-lossy"].plan(made(target), RNG).proof()
    assert proof == (f"{lost} of {seen} packets of redis1 were lost" if proven else "")

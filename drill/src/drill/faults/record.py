"""What is noted of an injected fault: what was promised for it, and what happened."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Bound:
    """Promise of one stream after one fault.

    Attributes:
        stream: publish, work, results, or rerun (of the tasks that the fault cut).
        seconds: longest gap allowed.
        since: ``apply``: the longest gap from the fault on; ``heal``: from its end on, when the fault itself forbids
            progress.
        formula: where the seconds come from, with the live values.
    """

    stream: str
    seconds: float
    since: str
    formula: str


@dataclass(slots=True)
class Fault:
    """One injected fault; times are Unix times by the drill's clock, 0 while it has not happened.

    Attributes:
        key: number and name, unique in the run.
        proof: what was read back after applying it; empty when nothing proved it.
        healed: what was read back after healing it; empty when nothing proved it.
        unacked: tasks delivered and not acknowledged when it was applied.
        silent: nobody may get a confirm from ``applied_at`` (plus a moment) until ``heal_at``.
        problem: why it could not be applied or healed.
    """

    key: str
    name: str
    targets: list[str]
    apply_at: float = 0.0
    applied_at: float = 0.0
    heal_at: float = 0.0
    healed_at: float = 0.0
    settled_at: float = 0.0
    proof: str = ""
    healed: str = ""
    unacked: int = 0
    silent: bool = False
    problem: str = ""
    bounds: list[Bound] = field(default_factory=list)

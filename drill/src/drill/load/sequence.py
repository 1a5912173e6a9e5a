"""What a publisher publishes: a seeded, endless sequence of tasks of mixed kinds on several ways."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIX = {"short": 44, "effect": 30, "critical": 8, "retrying": 6, "eta": 6, "long": 3, "fan": 2, "poison": 1}
WAYS = {"single": 60, "bulk": 25, "outbox": 15}
BULK = 20  # tasks per bulk publish


@dataclass(frozen=True)
class Item:
    """One task to publish.

    Attributes:
        kind: of the mix.
        task: name of the Celery task; empty for a message that is no task.
        options: for ``apply_async``.
        poison: it must end in the dead-letter queue.
    """

    id: str
    kind: str
    task: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    poison: bool = False


@dataclass(frozen=True)
class Batch:
    """Tasks that are published by one call."""

    way: str
    items: list[Item]


def _long(rng: random.Random) -> dict[str, Any]:
    return {"task": "drill.short", "args": (round(rng.uniform(1, 3), 2),)}


def _poison(rng: random.Random) -> dict[str, Any]:
    how = rng.choice(("raise", "unknown", "garbage"))
    task = {"raise": "drill.poison", "unknown": "drill.nobody_has_this_task", "garbage": ""}[how]
    return {"task": task, "args": (how,), "poison": True}


_KINDS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "short": lambda rng: {"task": "drill.short", "args": (round(rng.uniform(0, 0.05), 3),)},
    "effect": lambda _: {"task": "drill.effect"},
    "critical": lambda _: {"task": "drill.short", "args": (0.01,), "options": {"queue": "critical"}},
    "retrying": lambda rng: {"task": "drill.retrying", "args": (rng.randint(1, 3),)},
    "eta": lambda rng: {"task": "drill.short", "args": (0.01,), "options": {"countdown": rng.randint(2, 15)}},
    "long": _long,
    "fan": lambda rng: {"task": "drill.fan", "args": (rng.randint(2, 4),)},
    "poison": _poison,
    "nowhere": lambda _: {
        "task": "drill.short",
        "args": (0.0,),
        "options": {"exchange": "tasks", "routing_key": "nowhere"},
    },
    "killer": lambda _: {"task": "drill.poison", "args": ("kill",), "poison": True},
}


def batches(prefix: str, seed: int, mix: dict[str, int], ways: dict[str, int]) -> Iterator[Batch]:
    """Yield what to publish, for ever; the same arguments give the same sequence.

    Args:
        prefix: of the task ids.
        seed: of the random choices.
        mix: weight of each kind of task.
        ways: weight of each way, by tasks.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    calls = {way: weight / (BULK if way == "bulk" else 1) for way, weight in ways.items()}
    number = 0
    while True:
        way = rng.choices(list(calls), list(calls.values()))[0]
        kinds = rng.choices(list(mix), list(mix.values()), k=BULK if way == "bulk" else 1)
        items = []
        for kind in kinds:
            items.append(Item(f"{prefix}.{number}", kind, **_KINDS[kind](rng)))
            number += 1
        if not items[0].task:
            way = "single"  # what is no task can be neither in the outbox nor in a bulk of signatures
        yield Batch(way, items)

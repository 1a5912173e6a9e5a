"""All faults, by name."""

from drill.faults import broker, limits, load, loss, pairs, power, redis, workers
from drill.faults.base import REGISTRY, Plan, Spec, Undo, undo

__all__ = [
    "REGISTRY",
    "Plan",
    "Spec",
    "Undo",
    "broker",
    "limits",
    "load",
    "loss",
    "pairs",
    "power",
    "redis",
    "undo",
    "workers",
]
